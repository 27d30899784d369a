"""Sweeps of the cheapest recipe over the small data set, as real processes."""

import dataclasses
import io
import json
import statistics
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from train import checkpoint as checkpoints
from train import data, sweep
from train.errors import RunError
from train.inference import examine
from train.recipes import RECIPES
from train.run import RunFolder

pytestmark = pytest.mark.timeout(300)  # processes that import PyTorch, maybe on one busy core

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("one_by_one", "--data", "digits8x8", "--device", "cpu", "--precision", "float32")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def command(folder: Path, *arguments: str) -> Ended:
    """`python -m train.sweep ARGUMENTS`, writing below a folder."""
    places = ("--runs", str(folder / "runs"), "--results", str(folder / "results"))
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)  # whose revision is recorded
        patch.setattr(sys, "argv", ["sweep", *arguments, *places])
        status = sweep.main()
    return Ended(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the sweep of two seeds writes."""
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder) -> tuple[Ended, dict]:
    """A sweep of two seeds: how it ended, and what it wrote."""
    ended = command(folder, *SMALL, "--seeds", "2")
    assert ended.status == 0, ended
    return ended, json.loads((folder / "results" / "accuracy-one_by_one-digits8x8.json").read_text())


class TestASweep:
    def test_writes_what_its_runs_gave(self, swept, folder):
        _, document = swept
        assert [run["seed"] for run in document["runs"]] == [0, 1]
        for run in document["runs"]:
            history = json.loads((folder / "runs" / f"one_by_one-{run['seed']}" / "history.json").read_text())
            epochs = history["epochs"]
            assert history["test"].items() <= run.items()
            assert run["best_epoch"] == history["best_epoch"]
            assert run["validation_accuracy"] == epochs[run["best_epoch"] - 1]["validation_accuracy"]
            assert (run["epochs"], run["seconds"]) == (5, round(sum(epoch["seconds"] for epoch in epochs), 1))

    def test_writes_mean_and_deviation_of_the_runs(self, swept):
        _, document = swept
        first, second = document["runs"]
        assert first["test_accuracy"] != second["test_accuracy"]
        names = {"test_accuracy", "test_loss", "corruption_accuracy", "validation_accuracy", "seconds"}
        assert document["mean"].keys() == document["standard_deviation"].keys() == names
        for name in names:
            numbers = first[name], second[name]
            assert document["mean"][name] == pytest.approx(sum(numbers) / 2)
            assert document["standard_deviation"][name] == pytest.approx(statistics.stdev(numbers))

    def test_writes_the_accuracy_on_clean_and_corrupted_test_images_of_the_checkpoints(self, swept, folder):
        _, document = swept
        test = data.load("digits8x8").test
        for run in document["runs"]:
            saved = checkpoints.load(RunFolder(folder / "runs" / f"one_by_one-{run['seed']}").best)
            for name, number in examine(saved.recogniser(), test).items():
                assert run[name] == pytest.approx(number, abs=1e-3)
        assert 0.3 < document["mean"]["corruption_accuracy"] < document["mean"]["test_accuracy"] < 1

    def test_writes_what_was_run_on_what_and_where(self, swept):
        _, document = swept
        recipe = dataclasses.asdict(RECIPES["one_by_one"]())
        assert document["recipe"] == json.loads(json.dumps({"name": "one_by_one", **recipe}))
        assert document["parameters"] == 24_210
        assert document["data"] == {"name": "digits8x8", "sha256": data.load("digits8x8").sha256}
        conditions = document["conditions"]
        assert (conditions["device"], conditions["precision"]) == ("cpu", "float32")
        assert conditions["runs at a time"] in (1, 2)
        assert all(run["threads"] >= 1 and len(run["revisions"]) == 1 for run in document["runs"])
        assert {"cpu", "python", "revision", "versions"} <= conditions.keys()
        assert "torch" in conditions["versions"]

    def test_prints_the_mean_in_its_last_line_and_each_runs_lines_under_its_name(self, swept, folder):
        ended, document = swept
        last = ended.out.splitlines()[-1]
        assert last.startswith(f"test accuracy {document['mean']['test_accuracy']:.3%}")
        assert last.endswith(f"written to {folder / 'results' / 'accuracy-one_by_one-digits8x8.json'}")
        for name in ("one_by_one-0", "one_by_one-1"):
            assert f"[{name}] best epoch " in ended.out


def test_a_sweep_again_trains_nothing_and_gives_the_same_numbers(swept, folder):
    _, first = swept
    states = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.pt")}
    assert len(states) == 4
    ended = command(folder, *SMALL, "--seeds", "2")
    assert ended.status == 0
    assert "epoch 1/5" not in ended.out
    again = json.loads((folder / "results" / "accuracy-one_by_one-digits8x8.json").read_text())
    assert {**again, "conditions": None} == {**first, "conditions": None}
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.pt")} == states


def test_a_run_that_fails_ends_the_sweep_which_starts_no_other_and_writes_nothing(tmp_path, monkeypatch):
    start, started = subprocess.Popen, []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: started.append(a) or start(*a, **options))
    run = tmp_path / "runs" / "one_by_one-0"
    run.mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        (run / name).write_text("no tensors")
    ended = command(tmp_path, *SMALL, "--seeds", "3", "--jobs", "1")
    assert ended.status == 1
    assert "[one_by_one-0] error: " in ended.out
    assert ended.err.splitlines()[-1] == (
        "error: the run of seed 0 ended with status 1; see its lines above. Sweep again to go on with what there is, "
        f"or delete {run} to start it anew"
    )
    assert len(started) == 1
    assert list((tmp_path / "results").iterdir()) == []


def test_a_sweep_that_is_terminated_leaves_no_run_behind(tmp_path):
    places = ("--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results"))
    arguments = (sys.executable, "-m", "train.sweep", *SMALL, "--seeds", "1", *places)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline().startswith("[one_by_one-0] ")
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("interrupted: the same command goes on where it stopped\n")
    # The sweep has waited for its run, which held the folder as long as it lived.
    with RunFolder(tmp_path / "runs" / "one_by_one-0").reserved(resume=False, overwrite=True):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one_by_two",), "unknown recipe 'one_by_two': did you mean 'one_by_one'"),
        (("one_by_one", "--seeds", "0"), "--seeds is 0; it must be at least 1"),
        (("one_by_one", "--jobs", "0"), "--jobs is 0; it must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_1_and_starts_nothing(tmp_path, arguments, message):
    ended = command(tmp_path, *arguments)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_results_that_could_not_be_written_are_refused_before_any_training(tmp_path):
    (tmp_path / "results").write_text("")
    ended = command(tmp_path, *SMALL)
    assert (ended.status, ended.out) == (1, "")
    assert "results cannot be made (File exists); choose another folder with --results" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_run_without_its_history_is_an_error_that_names_the_file(folder):
    with pytest.raises(RunError, match=r"history\.json is missing; restore it, or delete .* and sweep again"):
        sweep.run_result(RunFolder(folder / "nowhere"))


def result(seed: int, **changes: object) -> dict[str, object]:
    """What `run_result` gives."""
    return {
        "seed": seed,
        "test_accuracy": 0.9 + seed / 100,
        "test_loss": 0.3,
        "corruption_accuracy": 0.7,
        "validation_accuracy": 0.91,
        "seconds": 3.0,
        "recipe": dataclasses.asdict(dataclasses.replace(RECIPES["one_by_one"](), **changes)),
    }


class TestTheFile:
    @pytest.fixture(autouse=True)
    def in_the_repository(self, monkeypatch):
        monkeypatch.chdir(ROOT)

    def test_of_one_run_has_no_deviation(self, tmp_path, dataset):
        sweep.write_result(tmp_path / "b.json", "one_by_one", dataset, [result(0)], {})
        document = json.loads((tmp_path / "b.json").read_text())
        assert document["mean"]["test_accuracy"] == 0.9
        assert document["standard_deviation"] is None

    def test_of_runs_of_different_recipes_is_not_written(self, tmp_path, dataset):
        runs = [result(0), result(1, epochs=6)]
        with pytest.raises(RunError, match="the runs of one_by_one differ in more than the seed; give --runs another"):
            sweep.write_result(tmp_path / "b.json", "one_by_one", dataset, runs, {})
        assert list(tmp_path.iterdir()) == []
