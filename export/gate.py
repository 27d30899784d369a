"""The gate: everything that is about to be published is held against the network as PyTorch computes it in FP32.

What each check measures, in the order in which they run:

    onnx fp32     the FP32 graph on ONNX Runtime, by the engine that serves it
    onnx int8     the INT8 graph likewise, where there is one
    onnx fp16     the FP16 graph likewise. On a CPU it computes in FP32 with weights rounded to FP16
    torch fp16    the FP16 network in PyTorch, whose every value is FP16: this one overflows where a GPU would
    range fp16    the largest value of each layer, and the weights, against what FP16 can hold
    a plan        the TensorRT engine on its GPU, once for each of several batch sizes

An engine has to give one image the same answer in any company, too: alone (of a plan, in the smallest batch that it
takes) and at up to sixteen places of each larger batch.
"""

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from export import parity
from export.parity import Comparison, Probabilities
from export.tolerances import Tolerances
from serve.engines import Pixels
from train.data import Dataset

FORMAT = 2

# Batch sizes that checks of engines without fixed ones cycle through: engines choose their kernels by size.
BATCH_SIZES = (1, 7, 16, 64, 256)

# Of each batch size, so many rotations of the same images.
_ROTATIONS = 16

# Flips whose images are kept in the report: enough to see what is wrong.
_PICTURES = 60

Run = Callable[[Pixels], Probabilities]
"""Classifies N images, uint8 [N, 1, 28, 28] to float32 [N, 10]."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: what was compared with what, what came out, and what is wrong with it."""

    name: str
    reference: str
    comparison: Comparison | None = None
    batch_difference: float | None = None
    range: dict[str, Any] | None = None
    findings: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """The labelled images that everything is compared on, and the reference's answers to them."""

    __test__ = False  # for pytest, which collects by name

    data: dict[str, str]
    pixels: Pixels
    labels: parity.Labels
    reference_name: str
    reference: Probabilities

    @classmethod
    def of(cls, dataset: Dataset, reference_name: str, reference: Run) -> "TestSet":
        """The test images of a data set, answered by a reference."""
        pixels = dataset.test.pixels.numpy()
        return cls(
            data={"name": dataset.name, "sha256": dataset.sha256},
            pixels=pixels,
            labels=dataset.test.labels.numpy(),
            reference_name=reference_name,
            reference=reference(pixels),
        )

    def least_decided(self, count: int) -> npt.NDArray[np.intp]:
        """Indices of the images on which the reference's lead is smallest: there a rounding changes the digit."""
        order: npt.NDArray[np.intp] = np.argsort(parity.lead(self.reference), kind="stable")
        return np.sort(order[:count])


def check_answers(
    name: str, test: TestSet, run: Run, tolerances: Tolerances, images: npt.NDArray[np.intp] | None = None
) -> Check:
    """Compare a candidate's answers with the reference's.

    Args:
        name: The candidate, for the report.
        test: What to ask, and the reference's answers.
        run: Asks the candidate.
        tolerances: What may differ.
        images: Indices of the images to ask about, int [n]; None for all of them.
    """
    chosen = slice(None) if images is None else images
    comparison = parity.measure(test.reference[chosen], run(test.pixels[chosen]), test.labels[chosen])
    if images is not None:
        flips = [dataclasses.replace(flip, image=int(images[flip.image])) for flip in comparison.flips]
        comparison = dataclasses.replace(comparison, flips=flips)
    return Check(
        name=name,
        reference=test.reference_name,
        comparison=comparison,
        findings=parity.judge(comparison, tolerances),
    )


def check_engine(
    name: str, test: TestSet, run: Run, tolerances: Tolerances, sizes: Sequence[int], *, each: bool
) -> Check:
    """As `check_answers`, and whether the answers depend on the batch.

    Args:
        name: The candidate, for the report.
        test: What to ask, and the reference's answers.
        run: Calls the engine once.
        tolerances: What may differ.
        sizes: Batch sizes that the engine accepts.
        each: Ask about every image at each size, and report the worst; else cycle through the sizes once.
    """
    rounds = [[size] for size in sizes] if each else [list(sizes)]
    checks = [check_answers(name, test, partial(in_batches, run, sizes=round_), tolerances) for round_ in rounds]
    if each:
        checks = [_in_batches_of(size, check) for size, check in zip(sizes, checks, strict=True)]
    worst = max(checks, key=lambda check: (len(check.findings), check.comparison.max_difference))  # type: ignore[union-attr]
    difference = parity.batch_difference(*_rotate(run, test.pixels, sizes))
    findings = [*worst.findings, *parity.judge_batches(difference, tolerances)]
    return dataclasses.replace(worst, batch_difference=difference, findings=findings)


def _in_batches_of(size: int, check: Check) -> Check:
    """The check, each finding with the batch size that it was made at."""
    return dataclasses.replace(check, findings=[f"in batches of {size}, {finding}" for finding in check.findings])


def check_range(
    name: str, peaks: dict[str, float], weights: Mapping[str, int], largest: float, tolerances: Tolerances
) -> Check:
    """Whether a network's values fit into FP16; see `parity.judge_range`."""
    highest = float(np.max(list(peaks.values())))  # NaN where any is
    return Check(
        name=name,
        reference=f"FP16's largest number, {largest:g}",
        range={"peaks": peaks, "weights": dict(weights), "headroom": largest / highest if highest else None},
        findings=parity.judge_range(peaks, weights["overflowing"], largest, tolerances),
    )


def in_batches(run: Run, pixels: Pixels, sizes: Sequence[int]) -> Probabilities:
    """Classify all images, uint8 [N, 1, 28, 28], in batches whose sizes are taken in turn; float32 [N, 10]."""
    parts: list[Probabilities] = []
    start = 0
    while start < len(pixels):
        size = sizes[len(parts) % len(sizes)]
        parts.append(run(np.ascontiguousarray(pixels[start : start + size])))
        start += size
    return np.concatenate(parts)


def _rotate(
    run: Run, pixels: Pixels, sizes: Sequence[int]
) -> tuple[list[tuple[npt.NDArray[np.intp], Probabilities]], Probabilities]:
    """Answers to the same images in batches of each size, rotated through their places, and in the smallest."""
    largest, smallest = min(max(sizes), len(pixels)), min(sizes)
    alone = in_batches(run, pixels[:largest], [smallest])
    answers = []
    for size in (min(size, largest) for size in sizes if size > 1):
        for shift in range(0, size, -(-size // _ROTATIONS)):
            images = np.roll(np.arange(size), shift)
            answers.append((images, run(np.ascontiguousarray(pixels[images]))))
    return answers, alone


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the gate found: the content of `parity.json`.

    Attributes:
        model: `name` and `version`.
        data: `name` and `sha256` of the data set.
        images: Number of its test images.
        tolerances: What was let pass, by precision; of a plan, by its name.
        checks: What was compared.
        unchecked: What could not be, and why.
        pictures: Images that changed their digit, by index, as base64 text.
    """

    model: dict[str, str]
    data: dict[str, str]
    images: int
    tolerances: dict[str, Tolerances]
    checks: list[Check]
    unchecked: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


def picture(pixels: Pixels) -> str:
    """An image, uint8 [1, 28, 28], as base64 text."""
    return base64.b64encode(pixels.tobytes()).decode()


def pictures(test: TestSet, checks: Sequence[Check]) -> dict[str, str]:
    """The images of the first flips of all checks, by their index."""
    flipped = {flip.image for check in checks if check.comparison for flip in check.comparison.flips}
    return {str(image): picture(test.pixels[image]) for image in sorted(flipped)[:_PICTURES]}
