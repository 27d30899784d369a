"""Real processes, started by torchrun, that train one network together over the loopback interface."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from train import checkpoint as checkpoints
from train import data
from train.distributed import ALONE, Workers, join
from train.loop import train
from train.recipes import RECIPES
from train.run import RunFolder

pytestmark = pytest.mark.timeout(300)  # three processes that import PyTorch, maybe on one busy core

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")

# Steps without dropout, batch norm or distortion: each worker's share does what it would do in the whole batch.
PLAIN = {
    "epochs": 2,
    "batch_size": 64,
    "optimiser": "sgd",
    "schedule": "constant",
    "learning_rate": 0.05,
}

# Everything that draws random numbers or is averaged.
EVERYTHING = (
    *("compact", "--epochs", "3", "--batch-size", "64", "--average-decay", "0.8"),
    *("--optimiser", "adamw", "--label-smoothing", "0.05", "--elastic-pixels", "0.5"),
)


def torchrun(*arguments: str, workers: int = 2) -> subprocess.Popen[str]:
    """`torchrun -m train ARGUMENTS`, on the small data set."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "--local-addr", "127.0.0.1")
    options = ("--data", "digits8x8", "--device", "cpu", "--precision", "float32")
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "train", *arguments, *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status, stdout and stderr."""
    with process:
        out, err = process.communicate(timeout=250)
    return process.returncode, out, err


def numbers(folder: RunFolder) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Everything a run wrote that must not depend on the clock, but for the weights."""
    history = json.loads(folder.history.read_text())
    return [{**epoch, "seconds": None} for epoch in history["epochs"]], history["test"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[RunFolder, str]:
    """A finished run of two workers, and what it printed."""
    runs = tmp_path_factory.mktemp("runs")
    status, out, err = ended(torchrun(*EVERYTHING, "--runs", str(runs)))
    assert status == 0, err
    return RunFolder(runs / "compact"), out


class TestARunOfTwo:
    def test_writes_one_checkpoint_state_and_history_that_say_so(self, whole):
        folder, _ = whole
        assert {file.name for file in folder.path.iterdir()} == {"best.pt", "last.pt", "history.json", ".lock"}
        history = json.loads(folder.history.read_text())
        assert history["workers"] == 2
        assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3]
        assert checkpoints.load(folder.best).metrics.items() >= history["test"].items()

    def test_prints_everything_once(self, whole):
        _, out = whole
        lines = out.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
        assert lines[0].endswith("test images), 2 x cpu in float32, seed 0")
        assert len(lines) == 7

    def test_learns(self, whole):
        folder, _ = whole
        assert checkpoints.load(folder.best).metrics["test_accuracy"] > 0.7


def flags(fields: dict[str, object]) -> Iterator[str]:
    for name, value in fields.items():
        yield from ("--" + name.replace("_", "-"), str(value))


def test_two_workers_take_the_steps_of_one(tmp_path):
    status, _, err = ended(torchrun("dropout_cnn", *flags(PLAIN), "--dropout", "0", "--runs", str(tmp_path)))
    assert status == 0, err
    alone = RunFolder(tmp_path / "alone")
    alone.path.mkdir(parents=True, exist_ok=True)
    recipe = replace(RECIPES["dropout_cnn"](), **PLAIN, arguments={"dropout": 0.0})
    train(recipe, data.load("digits8x8"), alone, seed=0, device=CPU)
    (together, tested), (expected, expected_test) = numbers(RunFolder(tmp_path / "dropout_cnn")), numbers(alone)
    assert len(together) == len(expected) == 2
    for ours, theirs in zip((*together, tested), (*expected, expected_test), strict=True):
        for name, number in theirs.items():
            assert ours[name] == pytest.approx(number, abs=1e-3 if name.endswith("loss") else 1e-2), name
    assert expected[1]["validation_loss"] < expected[0]["validation_loss"] - 0.5  # they had something to agree about


def test_an_interrupted_run_gives_the_numbers_of_an_uninterrupted_one_when_resumed(whole, tmp_path):
    with torchrun(*EVERYTHING, "--runs", str(tmp_path)) as process:
        for line in process.stdout:
            if line.startswith("epoch 1"):
                process.terminate()
                break
        process.communicate(timeout=100)
    folder = RunFolder(tmp_path / "compact")
    assert len(numbers(folder)[0]) < 3
    status, out, err = ended(torchrun(*EVERYTHING, "--runs", str(tmp_path), "--resume"))
    assert status == 0, err
    assert "epoch 1/3" not in out
    assert numbers(folder) == numbers(whole[0])
    ours, theirs = (checkpoints.load(each.best).weights for each in (folder, whole[0]))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-size", "63"), "error: batch_size is 63; it must be a multiple of 2, the workers"),
        (("--name", "taken"), "holds a run already; give --resume to go on with it"),
    ],
)
def test_a_mistake_ends_all_workers_with_a_message(tmp_path, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "best.pt").write_text("precious")
    status, out, err = ended(torchrun("dropout_cnn", "--epochs", "1", "--runs", str(tmp_path), *arguments))
    assert status != 0
    assert message in err
    assert "epoch" not in out
    assert (tmp_path / "taken" / "best.pt").read_text() == "precious"


class TestAWorkerAlone:
    def test_does_everything_itself(self):
        network, values, indices = torch.nn.Linear(2, 2), torch.tensor([1.0, 2.0]), torch.arange(7)
        assert Workers(rank=0, count=1) == ALONE
        assert ALONE.leads
        assert ALONE.share(indices).tolist() == indices.tolist()
        assert ALONE.connect(network) is network
        assert ALONE.mean(values.clone()).tolist() == ALONE.from_leader(values.clone()).tolist() == [1.0, 2.0]

    def test_acts_once(self):
        acts = []
        assert ALONE.leader_first(lambda: acts.append(1) or "done") == "done"
        assert acts == [1]

    def test_joins_nobody(self):
        with join(CPU) as (workers, device):
            assert workers == ALONE
            assert device == CPU
            assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_workers_shares_of_a_batch_are_equal_and_together_the_batch(count):
    shares = [Workers(rank, count).share(torch.arange(12)) for rank in range(count)]
    assert {len(share) for share in shares} == {12 // count}
    assert sorted(torch.cat(shares).tolist()) == list(range(12))
    assert [Workers(rank, count).leads for rank in range(count)] == [True] + [False] * (count - 1)
