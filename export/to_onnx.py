"""`python -m export.to_onnx best.pt`: make a bundle that serves on ONNX Runtime.

The bundle is published only when ONNX Runtime, run by the very engine that serves, agrees with PyTorch on every image
of the checkpoint's labelled test set.
"""

import dataclasses
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import tyro

import train.checkpoint
import train.data
from bundle import Bundle, Manifest
from bundle.manifest import INPUT, OUTPUT, Checkpoint, Parity, check_identity
from bundle.store import check_target, publish
from export import card, command, graph, parity
from export.errors import ExportError, ParityError
from serve.engines import Engine, Pixels, Probabilities
from serve.engines.onnx_runtime import GRAPH, open_onnx_runtime
from train.data import Dataset, Split
from train.inference import predict
from train.models import Recogniser
from train.storage import read_bytes

# Batch sizes that the comparison cycles through: engines choose their kernels by size.
_BATCH_SIZES = (1, 7, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an export. The fields' docstrings are the command line's help."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Checkpoint written by `python -m train`, such as runs/compact/best.pt."""

    output: Path | None = None
    """Where to publish the bundle. Default: the folder `bundle` beside the checkpoint. An older bundle is replaced."""

    name: str | None = None
    """Name under which the model is served. Default: the name of its architecture."""

    version: str = "1"
    """Version under which the model is served, a whole number."""

    data_root: Path | None = None
    """Folder that holds MNIST/raw. Default: the environment variable DIGITS_DATA_ROOT, else `data`."""

    @property
    def target(self) -> Path:
        """`output`, or its default."""
        return self.output or self.checkpoint.parent / "bundle"


def export(options: Options) -> Bundle:
    """Convert, check, compare, publish; says on standard output what it does.

    Raises:
        ExportError, TrainError, BundleError, ServeError: Nothing was published.
    """
    check_target(options.target)
    with _stage("load"):
        # Read once: training may replace the file at any moment.
        stored = read_bytes(options.checkpoint)
        checkpoint = train.checkpoint.parse(stored, options.checkpoint)
        name = options.name or checkpoint.architecture
        check_identity(name, options.version)
        recogniser = checkpoint.recogniser()
        test = _load_data(checkpoint, options.data_root).test
    with _stage("convert"):
        model = graph.convert(recogniser)
        graph.check(model)
        content = model.SerializeToString(deterministic=True)
    with _stage(f"compare on {len(test):,} images"):
        comparison = _compare(recogniser, content, test)
    for line in parity.describe(comparison):
        print(f"  {line}")
    tolerances = parity.Tolerances()
    if findings := parity.judge(comparison, tolerances):
        raise ParityError("the engine does not agree with the reference, nothing is published: " + "; ".join(findings))
    report = json.dumps(parity.to_json(comparison, tolerances), indent=2) + "\n"
    origin = Checkpoint(
        sha256=hashlib.sha256(stored).hexdigest(),
        trained={
            field.name: getattr(checkpoint, field.name)
            for field in dataclasses.fields(checkpoint)
            if field.name != "weights"
        },
    )
    manifest = _describe(name, options.version, origin, comparison)
    files = {GRAPH: content, "parity.json": report.encode(), "README.md": card.write(manifest).encode()}
    bundle = publish(options.target, manifest, files)
    print(f"published {bundle.path}")
    return bundle


def _compare(recogniser: Recogniser, content: bytes, test: Split) -> parity.Comparison:
    reference = predict(recogniser, test)
    with open_onnx_runtime(content, threads=torch.get_num_threads()) as engine:
        candidate = run_all(engine, test.pixels.numpy())
    return parity.measure(reference, candidate, test.labels.numpy())


def run_all(engine: Engine, pixels: Pixels) -> Probabilities:
    """Classify all images, uint8 [N, 1, 28, 28], in batches of varying size; float32 [N, 10]."""
    parts: list[Probabilities] = []
    start = 0
    sizes = itertools.cycle(_BATCH_SIZES)
    while start < len(pixels):
        size = next(sizes)
        parts.append(engine.run(np.ascontiguousarray(pixels[start : start + size])))
        start += size
    return np.concatenate(parts)


def _load_data(checkpoint: train.checkpoint.Checkpoint, root: Path | None) -> Dataset:
    """The data set that the checkpoint was trained and tested on."""
    dataset = train.data.load(checkpoint.data["name"], root)
    if dataset.sha256 != checkpoint.data["sha256"]:
        raise ExportError(
            f"the checkpoint was trained on {dataset.name} with SHA-256 {checkpoint.data['sha256']}, but the one found "
            f"here has {dataset.sha256}; name the right folder with --data-root, or train again"
        )
    return dataset


def _describe(name: str, version: str, origin: Checkpoint, comparison: parity.Comparison) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        architecture=origin.trained["architecture"],
        labels=[str(digit) for digit in range(10)],
        input=INPUT,
        output=OUTPUT,
        files={},
        parity=Parity(
            images=comparison.images,
            flips=len(comparison.flips),
            max_difference=comparison.max_difference,
            reference_accuracy=comparison.reference_accuracy,
            candidate_accuracy=comparison.candidate_accuracy,
        ),
        checkpoint=origin,
        versions={"torch": torch.__version__, "onnx": onnx.__version__},
    )


@contextmanager
def _stage(title: str) -> Iterator[None]:
    print(f"{title} …", end=" ", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.perf_counter() - started:.1f} s", flush=True)


def main() -> int:
    """Exit status: 0 when the bundle was published, another when it was not."""
    options = tyro.cli(Options, prog="python -m export.to_onnx", description=__doc__)
    return command.run(lambda: export(options), interrupted="nothing was published")


if __name__ == "__main__":
    sys.exit(main())
