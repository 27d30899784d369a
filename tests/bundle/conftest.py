"""A manifest to start from."""

import pytest

from bundle import Manifest
from bundle.manifest import Checkpoint, File, Gpu, Graph, Normalisation, Parity, Plan, Profile, Tensor

PARITY = Parity(images=360, flips=0, max_difference=1e-6, reference_accuracy=0.98, candidate_accuracy=0.98)


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A valid description of a bundle of one graph and one plan."""
    return Manifest(
        name="compact",
        version="1",
        architecture="compact",
        labels=[str(digit) for digit in range(10)],
        input=Tensor(name="pixels", dtype="uint8", shape=["batch", 1, 28, 28]),
        output=Tensor(name="probabilities", dtype="float32", shape=["batch", 10]),
        normalisation=Normalisation(mean=0.1307, std=0.3081),
        files={name: File(bytes=3, sha256="0" * 64) for name in ("model.onnx", "a.plan")},
        graphs={"model.onnx": Graph(precision="fp32", parity=PARITY)},
        plans={
            "a.plan": Plan(
                product="tensorrt",
                version="11.4.0.106",
                gpu=Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0"),
                precision="fp16",
                graph_sha256="0" * 64,
                profiles=[Profile(min=1, opt=32, max=256)],
                options={"builder_level": 3},
                audit={"convolutions": {"HALF": 5}},
                build_seconds=12.5,
                parity=PARITY,
            )
        },
        checkpoint=Checkpoint(sha256="1" * 64, trained={"recipe": {"epochs": 4, "patience": None}, "seed": 0}),
        versions={"torch": "2.14.0"},
    )
