import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train import checkpoint as checkpoints
from train.cli import main
from train.recipes import RECIPES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command line in this process, in an empty folder; returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        try:
            status = main()
        except SystemExit as exit_:
            status = exit_.code
        return status, *capsys.readouterr()

    return run


SMALL = ("compact", "--data", "digits8x8", "--epochs", "2", "--batch-size", "64", "--device", "cpu")


class TestHelp:
    def test_lists_every_recipe(self, run):
        status, out, _ = run("--help")
        assert status == 0
        assert all(f"  {name} " in out for name in RECIPES)

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_of_each_recipe_shows_its_flags(self, run, recipe):
        status, out, _ = run(recipe, "--help")
        assert status == 0
        flags = ("--epochs", "--learning-rate", "--rotation-degrees", "--elastic-pixels", "--teacher", "--data-root")
        assert all(flag in out for flag in flags)


class TestATypingMistake:
    def test_in_the_recipe_is_answered_with_the_nearest(self, run):
        status, _, err = run("compct")
        assert status == 2
        assert "unknown recipe 'compct': did you mean 'compact'?" in err

    def test_in_a_flag_is_answered_with_the_nearest(self, run):
        status, _, err = run("compact", "--epoch", "2")
        assert status == 2
        assert "--epochs" in err

    @pytest.mark.parametrize("arguments", [(), ("--epochs", "2", "compact")])
    def test_of_leaving_out_the_recipe_is_answered_with_all_of_them(self, run, arguments):
        status, _, err = run(*arguments)
        assert status == 2
        assert "first argument must be the name of a recipe" in err
        assert "four_conv" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "0"), "epochs is 0; it must be at least 1"),
        (("--seed", "-1"), "--seed is -1"),
        (("--name", "a/b"), "--name is 'a/b'; it must be the plain name of a folder"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--resume",), "there is no run in"),
        (("--resume", "--runs", ".", "--name", 300 * "a"), "there is no run in"),
        (("--runs", "/dev/null"), "cannot be made"),
        (("--dropout", "2"), "between 0 and 1"),
        (("--batch-size", "5000"), "must be at most 1293"),
        (("--average-decay", "1"), "average_decay is 1.0; it must be from 0 up to, but not including, 1"),
        (("--fade", "0.8"), "fade is 0.8; it must lie between 0 and 0.75"),
        (("--teacher", "nowhere/best.pt"), "nowhere/best.pt does not exist; write one with python -m train"),
        (("--teacher", "."), "cannot be read: Is a directory; expected a checkpoint file"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_1(run, arguments, message):
    status, _, err = run(*SMALL, *arguments)
    assert status == 1
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cuda_device_where_none_is_is_an_error_before_anything_else(run, tmp_path):
    status, _, err = run(*SMALL, "--device", "cuda")
    assert status == 1
    assert "finds no CUDA device; use --device cpu" in err
    assert list(tmp_path.iterdir()) == []


class TestARun:
    def test_prints_a_line_per_epoch_and_what_to_do_next(self, run, tmp_path):
        status, out, _ = run(*SMALL)
        assert status == 0
        assert [line.split()[1] for line in out.splitlines() if line.startswith("epoch ")] == ["1/2", "2/2"]
        best = checkpoints.load(tmp_path / "runs" / "compact" / "best.pt")
        shown = {name: f"{number:.2%}" for name, number in best.metrics.items() if name.endswith("accuracy")}
        assert (
            f"\nbest epoch {best.epoch}: accuracy {shown['validation_accuracy']} on the images held out, "
            f"{shown['test_accuracy']} on the test images, {shown['corruption_accuracy']} corrupted\n"
        ) in out
        assert out.endswith("next: python -m export.to_onnx runs/compact/best.pt\n")

    def test_takes_flags_name_seed_and_folder_from_the_command_line(self, run, tmp_path):
        status, _, _ = run(*SMALL, "--learning-rate", "0.004", "--shift-pixels", "1", "--seed", "3", "--name", "mine")
        assert status == 0
        history = json.loads((tmp_path / "runs" / "mine" / "history.json").read_text())
        assert history["recipe"]["learning_rate"] == 0.004
        assert history["recipe"]["augmentation"]["shift_pixels"] == 1
        assert history["seed"] == 3

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_says_first_what_is_trained_on_what_and_how(self, run, tmp_path, precision):
        status, out, _ = run(*SMALL, "--epochs", "1", "--precision", precision, "--seed", "4")
        assert status == 0
        assert out.splitlines()[0] == (
            f"compact (16,146 parameters) on digits8x8 (1,437 training and 360 test images), cpu in {precision}, seed 4"
        )
        history = json.loads((tmp_path / "runs" / "compact" / "history.json").read_text())
        assert (history["precision"], history["workers"], history["device"]) == (precision, 1, "cpu")

    def test_takes_its_teacher_and_calibration_from_the_command_line(self, run, tmp_path):
        assert run(*SMALL, "--epochs", "1", "--name", "first")[0] == 0
        teacher = "runs/first/best.pt"
        taught = ("--teacher", teacher, "--teacher-weight", "0.7", "--calibrate", "--name", "second")
        status, _, err = run(*SMALL, "--epochs", "1", *taught)
        assert status == 0, err
        history = json.loads((tmp_path / "runs" / "second" / "history.json").read_text())
        # Its name and its content; the folders of this machine are nobody's business.
        assert (history["recipe"]["teacher"], history["recipe"]["teacher_weight"]) == ("best.pt", 0.7)
        assert history["teacher"] == hashlib.sha256((tmp_path / teacher).read_bytes()).hexdigest()
        best = checkpoints.load(tmp_path / "runs" / "second" / "best.pt")
        assert best.recipe == history["recipe"]
        assert best.recipe["calibrate"] is True

    def test_is_not_overwritten_unless_asked(self, run):
        assert run(*SMALL)[0] == 0
        status, _, err = run(*SMALL)
        assert status == 1
        assert all(flag in err for flag in ("--resume", "--overwrite", "--name"))
        assert run(*SMALL, "--overwrite")[0] == 0

    def test_that_is_finished_may_be_resumed_and_says_the_same(self, run):
        _, first, _ = run(*SMALL)
        status, again, _ = run(*SMALL, "--resume")
        assert status == 0
        assert again.splitlines()[-3:] == first.splitlines()[-3:]


def test_ctrl_c_before_an_earlier_run_is_replaced_says_that_it_is_as_it_was(run, tmp_path, monkeypatch):
    (tmp_path / "runs" / "compact").mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        (tmp_path / "runs" / "compact" / name).write_text("earlier")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.data.load", interrupted)
    status, _, err = run(*SMALL, "--overwrite")
    assert (status, err) == (
        130,
        "\ninterrupted: no epoch was complete, the earlier run in runs/compact is as it was\n",
    )


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "train", *SMALL, "--epochs", "10000", "--runs", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) as process:
        for line in process.stdout:
            if line.startswith("epoch "):
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.rstrip().endswith(f"python -m train {' '.join(command[3:])} --resume")
    assert checkpoints.load(tmp_path / "compact" / "best.pt").epoch >= 1


def test_ctrl_c_while_pytorch_is_imported_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "train", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted: nothing was begun\n")
