"""The command from end to end: what it writes, what it says, and what becomes of mistakes."""

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from train import checkpoint as checkpoints
from train import data
from train.errors import RunError, WriteError
from train.evaluate import FIGURES, OutputFolder, learning_curves, main
from train.report import figures
from train.report.metrics import Answer, calibration
from train.report.page import render
from train.transforms.corrupt import CORRUPTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process; returns status, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        return main(), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The folder of a run, evaluated; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("evaluated") / "compact"
    shutil.copytree(trained.parent, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate", str(folder / "best.pt"), "--device", "cpu"])
        assert main() == 0
    return folder


@pytest.fixture(scope="module")
def document(folder):
    return json.loads((folder / "evaluation.json").read_text())


class Page(HTMLParser):
    """What a page refers to, and its words."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.images, self.references, self.words = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, text):
        self.words += text.split()


class TestTheNumbers:
    def test_are_those_of_independent_counting(self, document, folder):
        test = data.load("digits8x8").test
        network = checkpoints.load(folder / "best.pt").network()
        with torch.inference_mode():
            logits = network((test.pixels.float() / 255 - 0.1307) / 0.3081)
        right = logits.argmax(dim=1) == test.labels
        assert document["images"] == len(test) == 360
        assert document["errors"] == (~right).sum().item() > 0
        assert document["accuracy"]["value"] == right.double().mean().item()
        assert [mistake["index"] for mistake in document["mistakes"]] == torch.nonzero(~right).flatten().tolist()
        assert document["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, test.labels).item())

    def test_agree_with_each_other(self, document):
        confusion = np.array(document["confusion"])
        assert confusion.sum() == document["images"] == sum(bin_["images"] for bin_ in document["calibration"]["bins"])
        assert confusion.sum() - confusion.trace() == document["errors"] == len(document["mistakes"])
        assert [digit["images"] for digit in document["digits"]] == confusion.sum(axis=1).tolist()

    def test_agree_with_what_training_found(self, document, folder):
        metrics = checkpoints.load(folder / "best.pt").metrics
        assert document["accuracy"]["value"] == pytest.approx(metrics["test_accuracy"])
        assert document["loss"] == pytest.approx(metrics["test_loss"])

    def test_cover_every_corruption(self, document):
        robustness = document["robustness"]
        assert list(robustness["accuracies"]) == list(CORRUPTIONS)
        assert robustness["mean_accuracy"] < document["accuracy"]["value"]

    def test_come_with_the_identity_of_the_model(self, document, folder):
        model = document["model"]
        assert (model["architecture"], model["parameters"]) == ("compact", 16_146)
        assert model["sha256"] == hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()
        assert document["data"] == {"name": "digits8x8", "sha256": data.load("digits8x8").sha256} == model["trained_on"]
        assert {"python", "torch", "scikit-learn"} <= document["versions"].keys()
        assert document["notes"] == []


class TestThePage:
    @pytest.fixture
    def page(self, folder):
        return Page((folder / "report.html").read_text("utf-8"))

    def test_needs_no_other_file_no_network_and_no_script(self, page, folder):
        assert page.references
        assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
        assert not {"script", "link", "iframe", "object"} & set(page.tags)
        source = (folder / "report.html").read_text("utf-8")
        assert not any(word in source for word in ("http://", "https://", "url(", "@import", "{{", "{%"))

    def test_shows_every_figure_with_words_for_those_who_cannot_see_it(self, page, folder):
        shown = {b64decode(image["src"].partition(",")[2]) for image in page.images}
        assert shown == {path.read_bytes() for path in (folder / "figures").iterdir()}
        assert all(len(image["alt"]) > 20 for image in page.images)

    def test_says_the_numbers(self, page, document):
        assert f"{document['accuracy']['value']:.2%}" in page.words
        assert f"{document['robustness']['mean_accuracy']:.2%}" in page.words
        assert document["model"]["sha256"] in page.words
        assert all(name in page.words for name in CORRUPTIONS)

    def test_shows_text_from_elsewhere_as_text(self, document):
        page = Page(render(document | {"notes": ["<script>alert(1)</script>"]}, {}))
        assert "script" not in page.tags
        assert "<script>alert(1)</script>" in page.words

    def test_names_the_members_of_a_committee(self, document):
        members = [{"architecture": name, "arguments": {}} for name in ("compact", "champion")]
        model = document["model"] | {"architecture": "committee", "arguments": {"members": members}}
        page = Page(render(document | {"model": model}, {}))
        assert "committee, members compact + champion" in " ".join(page.words)

    def test_says_so_when_there_are_no_mistakes(self, document):
        page = render(document | {"errors": 0, "mistakes": []}, {})
        assert "every test image was read right" in page


def test_every_figure_is_a_whole_png_wide_enough_to_read(folder):
    paths = list((folder / "figures").iterdir())
    assert {path.name for path in paths} == {f"{name}.png" for name in FIGURES}
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width == 1200
            assert len(image.convert("L").getcolors()) > 10, "it is blank"


def test_the_summary_is_printed_and_nothing_else_is_left_in_the_folder(run, trained, tmp_path, document):
    status, out, _ = run(trained, "--out", tmp_path / "new", "--device", "cpu")
    assert status == 0
    assert f"accuracy {document['accuracy']['value']:.2%} (95% interval " in out
    assert f"{document['errors']} errors" in out
    for digit, counts in enumerate(document["confusion"]):
        assert [str(digit), *(str(count or ".") for count in counts)] in [line.split() for line in out.splitlines()]
    assert out.endswith(f"written to {tmp_path / 'new'}: evaluation.json, report.html and {len(FIGURES)} figures\n")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["evaluation.json", "figures", "report.html"]
    again = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert again == document, "the same checkpoint gives the same numbers"


def test_a_checkpoint_without_history_and_of_other_data_is_evaluated_and_the_report_says_so(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    path = tmp_path / "moved" / "best.pt"
    (tmp_path / "moved" / "history.json").unlink()
    stored = checkpoints.load(path)
    checkpoints.save(path, dataclasses.replace(stored, data=stored.data | {"sha256": "0" * 64}))
    status, out, _ = run(path)
    assert status == 0
    reasons = (
        "The learning curves are left out: history.json beside the checkpoint is not there.",
        f"The network was trained on other data, digits8x8 with SHA-256 {'0' * 64}; ",
    )
    page = " ".join(Page((tmp_path / "moved" / "report.html").read_text("utf-8")).words)
    for reason in reasons:
        assert f"note: {reason}" in out
        assert reason in page
    left = {path.stem for path in (tmp_path / "moved" / "figures").iterdir()}
    assert left == FIGURES - {"learning_curves"}, "the earlier evaluation's figure is still there"


class TestTheHistory:
    @pytest.fixture
    def stored(self, trained):
        return checkpoints.load(trained)

    @pytest.fixture
    def history(self, trained):
        return json.loads((trained.parent / "history.json").read_text())

    def read(self, stored, path, content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return learning_curves(stored, path)

    def test_of_the_checkpoints_own_run_is_read(self, stored, history, tmp_path):
        epochs, notes = self.read(stored, tmp_path / "history.json", history)
        assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4]
        assert notes == []

    @pytest.mark.parametrize("change", [{"seed": 99}, {"recipe": {}}, {"data": {"name": "mnist"}}])
    def test_of_another_run_is_not(self, stored, history, tmp_path, change):
        epochs, [note] = self.read(stored, tmp_path / "history.json", history | change)
        assert epochs == []
        assert note.endswith("history.json beside the checkpoint belongs to another run.")

    @pytest.mark.parametrize("content", ["", "{", "[]", "7", {"epochs": [{}]}, {"epochs": [7]}, {"epochs": 7}, {}])
    def test_that_is_none_is_not(self, stored, tmp_path, content):
        epochs, [note] = self.read(stored, tmp_path / "history.json", content)
        assert epochs == []
        assert note.endswith("history.json beside the checkpoint is not a run's history.")

    def test_without_an_epoch_is_not(self, stored, history, tmp_path):
        epochs, [note] = self.read(stored, tmp_path / "history.json", history | {"epochs": []})
        assert epochs == []
        assert note.endswith("history.json beside the checkpoint has no epoch.")


class TestAMistake:
    """Is one line on stderr and status 1, and leaves nothing behind."""

    def check(self, ended, message, *left):
        status, _, err = ended
        assert status == 1
        [line] = [line for line in err.splitlines() if not line.startswith("WARNING: digits8x8")]
        assert line.startswith("error: ")
        assert message in line
        assert not any(path.exists() for path in left)

    def test_in_the_checkpoints_name(self, run, tmp_path):
        ended = run(tmp_path / "nope.pt", "--out", tmp_path / "new")
        self.check(ended, "does not exist; write one with python -m train", tmp_path / "new")

    def test_of_giving_something_else(self, run, tmp_path):
        (tmp_path / "notes.txt").write_text("not weights")
        ended = run(tmp_path / "notes.txt", "--out", tmp_path / "new")
        self.check(ended, "is not a checkpoint: it begins with b'not '", tmp_path / "new")

    def test_in_the_folder_of_the_data(self, run, trained, tmp_path, monkeypatch):
        monkeypatch.setattr("train.data._download_mnist", lambda root: None)
        ended = run(trained, "--data", "mnist", "--data-root", tmp_path, "--out", tmp_path / "new")
        self.check(ended, "cannot be read", tmp_path / "new")

    @pytest.mark.parametrize("name", ["taken", "taken/below"])
    def test_of_naming_a_file_as_folder(self, run, trained, tmp_path, name):
        (tmp_path / "taken").write_text("years of work")
        self.check(run(trained, "--out", tmp_path / name), "cannot be made (Not a directory); choose another folder")
        assert (tmp_path / "taken").read_text() == "years of work"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_in_the_device(self, run, trained, tmp_path):
        ended = run(trained, "--device", "cuda", "--out", tmp_path / "new")
        self.check(ended, "finds no CUDA device; use --device cpu", tmp_path / "new")

    def test_of_giving_damaged_weights(self, run, trained, tmp_path):
        stored = checkpoints.load(trained)
        weights = {
            name: each * float("nan") if each.is_floating_point() else each for name, each in stored.weights.items()
        }
        checkpoints.save(tmp_path / "best.pt", dataclasses.replace(stored, weights=weights))
        ended = run(tmp_path / "best.pt")
        self.check(ended, "gives probabilities that are no numbers for 360 of 360 images", tmp_path / "report.html")

    def test_in_a_program_of_its_own_shows_no_traceback(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "train.evaluate", tmp_path / "nope.pt"],
            cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


class TestTheFolder:
    def test_that_may_not_be_written_to_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(RunError, match="cannot be written to; choose another folder with --out"):
            OutputFolder(path=tmp_path).prepare()

    @pytest.mark.parametrize("pictures", [{"samples": b"new"}, {}])
    def test_with_a_folder_in_the_place_of_a_figure_is_an_error_and_not_a_crash(self, tmp_path, pictures):
        output = OutputFolder(path=tmp_path)
        output.figure("samples").mkdir(parents=True)
        with pytest.raises(WriteError, match=r"samples\.png"):
            output.write({}, pictures)


def test_ctrl_c_ends_with_one_line_and_130(run, trained, tmp_path, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.evaluate.evaluate_checkpoint", interrupted)
    assert run(trained, "--out", tmp_path / "new") == (130, "", "interrupted: there is no new report\n")


DRAWN_AT_THE_EDGES = {
    "one sample": lambda: figures.samples(np.zeros((1, 1, 28, 28), np.uint8), [7]),
    "one answer": lambda: figures.answers(
        np.zeros((1, 1, 28, 28), np.uint8), [Answer(index=0, label=7, prediction=1, probability=0.5)]
    ),
    "one epoch": lambda: figures.learning_curves(
        [dict.fromkeys(("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"), 1)], 1
    ),
    "no mistake": lambda: figures.confusion_matrix(np.eye(10, dtype=int).tolist()),
    "one bin": lambda: figures.reliability(calibration(np.eye(10, dtype=np.float32), np.arange(10))),
}


class TestFigures:
    """Draw whatever there is, leave the style of others alone, and are the same again."""

    @pytest.mark.parametrize("case", DRAWN_AT_THE_EDGES)
    def test_are_drawn_at_the_edges(self, case):
        figure = DRAWN_AT_THE_EDGES[case]()
        assert isinstance(figure, Figure)
        with Image.open(io.BytesIO(figures.png(figure))) as image:
            assert image.width == 1200

    def test_do_not_depend_on_settings_and_do_not_change_them(self):
        import matplotlib as mpl

        before = figures.png(DRAWN_AT_THE_EDGES["no mistake"]())
        with mpl.rc_context({"font.size": 30, "savefig.transparent": True}):
            settings = dict(mpl.rcParams)
            assert figures.png(DRAWN_AT_THE_EDGES["no mistake"]()) == before
            assert dict(mpl.rcParams) == settings
