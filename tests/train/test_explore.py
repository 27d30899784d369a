import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from train.data import Dataset, Split
from train.explore import classes_figure, describe, draw, explore, main, oddities_figure, to_json


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command line in this process, in an empty folder; returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["explore", *arguments])
        try:
            status = main()
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def planted(dataset):
    """Training image 30 is mislabelled, 7 equals 3 but for its label, and test image 0 equals training image 60."""
    train = Split(dataset.train.pixels.clone(), dataset.train.labels.clone())
    train.labels[30] = (train.labels[30] + 1) % 10
    train.pixels[7] = train.pixels[3]
    train.labels[7] = (train.labels[3] + 1) % 10
    test = Split(dataset.test.pixels.clone(), dataset.test.labels.clone())
    test.pixels[0], test.labels[0] = train.pixels[60], train.labels[60]
    return Dataset(name="planted", train=train, test=test, sha256="1" * 64)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that the command has made about digits8x8."""
    folder = tmp_path_factory.mktemp("exploration")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["explore", "--data", "digits8x8"])
        assert main() == 0
    return folder / "runs" / "explore-digits8x8"


class TestExploring:
    def test_finds_what_was_planted(self, planted):
        document = to_json(explore(planted))
        groups = [[(each["split"], each["index"]) for each in group] for group in document["equal_images"]]
        assert groups == [[("training", 3), ("training", 7)], [("training", 60), ("test", 0)]]
        assert {odd["index"] for odd in document["training"]["doubtful"][:3]} == {3, 7, 30}
        closest = document["test"]["closest_pairs"][0]
        assert (closest["index"], closest["other"], closest["distance"]) == (0, 60, 0)

    def test_says_what_was_planted(self, planted):
        lines = dict(line.split("  ", 1) for line in describe(explore(planted)).replace("\n  ", "\n").splitlines()[1:])
        assert lines["equal images"].strip() == "2 groups, 1 of them with different labels"
        assert "closest pair: training #3 and training #7, 0.00" in lines["training neighbours"]
        assert "closest pair: test #0 and training #60, 0.00" in lines["test neighbours"]

    def test_says_so_where_no_images_are_equal(self, dataset):
        assert "equal images             none\n" in describe(explore(dataset))

    def test_takes_other_samples_with_another_seed_and_finds_the_same(self, dataset):
        first, again, other = (to_json(explore(dataset, seed)) for seed in (0, 0, 1))
        assert first == again
        assert first.pop("samples") != other.pop("samples")
        assert first == other


class TestDrawing:
    def test_leaves_the_settings_of_matplotlib_alone(self, dataset):
        before = dict(matplotlib.rcParams)
        draw(explore(dataset))
        assert dict(matplotlib.rcParams) == before

    def test_shows_every_count_above_its_bar(self, dataset):
        figure = classes_figure(explore(dataset))
        for axes, split in zip(figure.axes, (dataset.train, dataset.test), strict=True):
            counts = split.labels.bincount().tolist()
            assert [text.get_text() for text in axes.texts] == [str(count) for count in counts]

    def test_shows_odd_images_under_their_labels_and_indices(self, planted):
        split, odd = planted.train, explore(planted).splits[0].doubtful
        for axes, shown in zip(oddities_figure(split, odd, split, "odd").axes, odd[:5], strict=False):
            assert axes.get_title() == f"{split.labels[shown.index]}  #{shown.index}"
            np.testing.assert_array_equal(axes.images[0].get_array(), split.pixels[shown.index, 0])


class TestTheCommand:
    def test_writes_what_there_is_to_know(self, written):
        document = json.loads((written / "exploration.json").read_text())
        assert document["data"]["name"] == "digits8x8"
        training, test = document["training"], document["test"]
        assert (training["images"], test["images"]) == (1437, 360) == (sum(training["counts"]), sum(test["counts"]))
        assert sum(document["pixels"]["histogram"]) == 1437 * 784
        assert document["ink"]["heights"]["most"] == 20
        assert training["nearest"]["agreement"] > 0.98
        assert test["nearest"]["agreement"] > 0.98
        assert len(test["doubtful"]) == len(training["outlying"]) == 10

    def test_writes_figures_that_are_pictures(self, written):
        figures = sorted((written / "figures").iterdir())
        assert len(figures) == 12
        for path in figures:
            with Image.open(path) as picture:
                assert picture.format == "PNG"
                assert picture.width == 1200
                assert np.asarray(picture.convert("L")).std() > 5, f"{path.name} is blank"

    def test_leaves_nothing_else_behind(self, written):
        assert sorted(path.name for path in written.iterdir()) == ["exploration.json", "figures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "-1"), "--seed is -1; it must be at least 0"),
        (("--out", "/dev/null/here"), "/dev/null/here/figures cannot be made"),
        (("--data", "mnist", "--data-root", "nowhere"), "MNIST is not in"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_1(run, monkeypatch, arguments, message):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    status, _, err = run("--data", "digits8x8", *arguments)
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_an_unknown_data_set_is_answered_with_those_there_are(run):
    status, _, err = run("--data", "mnits")
    assert status == 2
    assert "mnist" in err
    assert "Traceback" not in err


def test_ctrl_c_says_what_there_is(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.explore.explore", interrupt)
    status, _, err = run("--data", "digits8x8")
    assert status == 130
    assert "interrupted: there is no new exploration" in err


def test_what_cannot_be_written_is_an_error_with_the_reason(run):
    Path("runs/explore-digits8x8/exploration.json").mkdir(parents=True)
    status, _, err = run("--data", "digits8x8")
    assert status == 1
    assert "exploration.json" in err
    assert "could not be written: Is a directory" in err
