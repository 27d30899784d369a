"""The bundles that come with the repository: whole, small, right, and served without an argument."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import imaging
import train.checkpoint
import train.data
from bundle import Bundle
from clients import DigitClient
from serve.engines.onnx_runtime import GRAPH, HALF_GRAPH, INT8_GRAPH, open_onnx_runtime
from train.errors import DataError
from train.inference import accuracy
from train.report.metrics import calibration

ROOT = Path(__file__).resolve().parents[1]
PRETRAINED = ROOT / "pretrained"
NAMES = ("champion", "compact")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_whole_and_comes_from_the_checkpoint_beside_it(name: str) -> None:
    bundle = Bundle.open(PRETRAINED / name)
    assert bundle.manifest.name == name
    graphs = {GRAPH, HALF_GRAPH, INT8_GRAPH} if name == "champion" else {GRAPH, HALF_GRAPH}
    assert set(bundle.manifest.files) == {*graphs, "probe.bin", "parity.json", "parity.html", "README.md"}
    stored = PRETRAINED / f"{name}.pt"
    assert bundle.manifest.checkpoint.sha256 == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert train.checkpoint.load(stored).data["name"] == "mnist"


def test_together_they_are_small() -> None:
    assert sum(file.stat().st_size for file in PRETRAINED.rglob("*") if file.is_file()) <= 12e6


@pytest.mark.parametrize("name", NAMES)
def test_each_recognises_mnist_as_its_card_says_and_is_as_sure_as_it_may_be(name: str) -> None:
    try:
        test = train.data.load("mnist").test
    except DataError:
        pytest.skip("MNIST is not at hand")
    bundle = Bundle.open(PRETRAINED / name)
    with open_onnx_runtime(bundle.read(GRAPH), threads=1) as engine:
        batches = np.array_split(test.pixels.numpy(), 100)
        probabilities = np.concatenate([engine.run(np.ascontiguousarray(batch)) for batch in batches])
    labels = test.labels.numpy()
    assert accuracy(probabilities, labels) == bundle.manifest.checkpoint.trained["metrics"]["test_accuracy"]
    assert calibration(probabilities, labels).expected_error <= 0.005


def test_without_an_argument_the_champion_is_served() -> None:
    command = [sys.executable, "-m", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            word, address = process.stdout.readline().split()
            assert word == "ready"
            pictures = [
                imaging.read((ROOT / "clients/examples" / f"{name}.png").read_bytes())[0].pixels
                for name in ("three", "seven")
            ]
            with DigitClient(address) as client:
                answer = client.classify(np.stack(pictures))
            assert answer.digits.tolist() == [3, 7]
            assert answer.model == "champion"
        finally:
            process.terminate()
        assert process.wait(30) == 0
