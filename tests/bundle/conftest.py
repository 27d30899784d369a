"""A manifest to start from."""

import pytest

from bundle import Manifest
from bundle.manifest import Checkpoint, File, Parity, Tensor


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A valid description of a bundle of one file."""
    return Manifest(
        name="compact",
        version="1",
        architecture="compact",
        labels=[str(digit) for digit in range(10)],
        input=Tensor(name="pixels", dtype="uint8", shape=["batch", 1, 28, 28]),
        output=Tensor(name="probabilities", dtype="float32", shape=["batch", 10]),
        files={"model.onnx": File(bytes=3, sha256="0" * 64)},
        parity=Parity(images=360, flips=0, max_difference=1e-6, reference_accuracy=0.98, candidate_accuracy=0.98),
        checkpoint=Checkpoint(sha256="1" * 64, trained={"recipe": {"epochs": 4, "patience": None}, "seed": 0}),
        versions={"torch": "2.14.0"},
    )
