"""Does a candidate answer as the reference does? Pure functions over arrays: measure first, judge second.

The reference is the network as PyTorch computes it in FP32, or what has been shown to agree with it; the candidate is
anything that gives probabilities. N images, 10 classes.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from export.tolerances import Tolerances

NO_DIGIT = -1

CONFIDENCE_LEVEL = 0.95

Probabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image on which reference and candidate name different digits. `margin` is the reference's lead."""

    image: int
    label: int
    reference: int
    candidate: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Accuracy lost, as a share of the images compared; negative where the candidate is the better one.

    Attributes:
        value: Measured.
        low, high: Interval that holds the true value with `CONFIDENCE_LEVEL`.
        p_value: How likely flips as uneven as these are if candidate and reference are equally good.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate against reference on N labelled images. Accuracies and agreement are shares from 0 to 1."""

    images: int
    agreement: float
    max_difference: float
    mean_difference: float
    reference_accuracy: float
    candidate_accuracy: float
    drop: Drop
    not_finite: int
    flips: list[Flip]


def measure(reference: Probabilities, candidate: Probabilities, labels: Labels) -> Comparison:
    """Compare probabilities, float32 [N, 10] each, of the same N images with int64 labels [N].

    Raises:
        ValueError: The shapes do not belong together.
    """
    if reference.shape != (len(labels), 10) or candidate.shape != reference.shape:
        raise ValueError(
            f"reference is {reference.shape}, candidate {candidate.shape}, labels {labels.shape}; "
            "expected [N, 10], [N, 10] and [N]"
        )
    if not len(labels):
        raise ValueError("there are no images to compare; at least one image was expected")
    # Where either has no number the difference is as large as one can be.
    difference = np.abs(np.where(np.isfinite(reference - candidate), reference - candidate, 1.0))
    ours, theirs = _digits(reference), _digits(candidate)
    margins = lead(reference)
    flips = [
        Flip(
            image=int(index),
            label=int(labels[index]),
            reference=int(ours[index]),
            candidate=int(theirs[index]),
            margin=float(margins[index]),
        )
        for index in np.flatnonzero(ours != theirs)
    ]
    return Comparison(
        images=len(labels),
        agreement=float(np.mean(ours == theirs)),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        reference_accuracy=float(np.mean(ours == labels)),
        candidate_accuracy=float(np.mean(theirs == labels)),
        drop=_drop(flips, len(labels)),
        not_finite=int(np.count_nonzero(~np.isfinite(reference + candidate).all(axis=1))),
        flips=flips,
    )


def lead(probabilities: Probabilities) -> npt.NDArray[np.float32]:
    """How far the best probability of each image is ahead of the second best, float32 [N]."""
    ranked = np.sort(probabilities, axis=1)
    return np.asarray(ranked[:, -1] - ranked[:, -2], np.float32)


def batch_difference(answers: Sequence[tuple[npt.NDArray[np.intp], Probabilities]], alone: Probabilities) -> float:
    """The largest difference between an image's probabilities in a batch and those that it gets alone.

    Args:
        answers: For each batch, which images it held, int [n], and the probabilities in that order, float32 [n, 10].
        alone: The probabilities of each image by itself, float32 [N, 10].
    """
    largest = 0.0
    for images, probabilities in answers:
        difference = np.abs(probabilities - alone[images])
        largest = max(largest, float(np.where(np.isfinite(difference), difference, 1.0).max()))
    return largest


def judge(comparison: Comparison, tolerances: Tolerances) -> list[str]:
    """What is wrong, one line per finding, each with the tolerance that would have passed; empty when all is well."""
    findings = []
    if comparison.not_finite:
        findings.append(f"{comparison.not_finite} images have probabilities that are NaN or infinite; none may")
    # Written so that a figure that is not a number fails.
    if not comparison.max_difference <= tolerances.max_difference:
        findings.append(
            f"a probability differs by {comparison.max_difference:.3g}, at most {tolerances.max_difference:.3g} is "
            "tolerated"
        )
    drop = comparison.drop
    tolerated = tolerances.accuracy_drop(comparison.images)
    if not drop.value <= tolerated:
        findings.append(
            f"accuracy falls by {drop.value:.4%} ({CONFIDENCE_LEVEL:.0%} interval {drop.low:.4%} to {drop.high:.4%}), "
            f"from {comparison.reference_accuracy:.2%} to {comparison.candidate_accuracy:.2%}; at most "
            f"{tolerated:.4%} is tolerated"
        )
    decided = [flip for flip in comparison.flips if not flip.margin <= tolerances.max_flip_margin]
    if decided:
        widest = max(flip.margin for flip in decided)
        findings.append(
            f"{len(decided)} images change their digit although the reference was decided "
            f"(lead up to {widest:.3g}, tolerated up to {tolerances.max_flip_margin:.3g}): {list_flips(decided)}"
        )
    return findings


def judge_batches(difference: float, tolerances: Tolerances) -> list[str]:
    """As `judge`, for what `batch_difference` measured."""
    if difference <= tolerances.max_batch_difference:
        return []
    return [
        f"the same image gets probabilities that differ by {difference:.3g} in different batches, at most "
        f"{tolerances.max_batch_difference:.3g} is tolerated"
    ]


def judge_range(peaks: dict[str, float], overflowing: int, largest: float, tolerances: Tolerances) -> list[str]:
    """As `judge`, for a network that shall compute in FP16.

    Args:
        peaks: Largest magnitude that each layer gives, by its name.
        overflowing: Number of weights that FP16 cannot hold.
        largest: FP16's largest number.
        tolerances: `min_headroom` decides.
    """
    findings = []
    if overflowing:
        findings.append(f"{overflowing} weights are beyond {largest:g}, FP16's largest number; none may be")
    bound = largest / tolerances.min_headroom
    if high := {layer: peak for layer, peak in peaks.items() if not peak <= bound}:
        worst = max(high, key=lambda layer: high[layer] if math.isfinite(high[layer]) else math.inf)
        findings.append(
            f"{len(high)} layers give values up to {high[worst]:.4g} ({worst}), too near {largest:g}, FP16's largest "
            f"number: at most {bound:.4g}, a {tolerances.min_headroom:g}th of that, is tolerated"
        )
    return findings


def list_flips(flips: Sequence[Flip], most: int = 10) -> str:
    """Flips in a line of text."""
    shown = [
        f"image {flip.image} ({name_digit(flip.reference)} became {name_digit(flip.candidate)}, label {flip.label})"
        for flip in flips[:most]
    ]
    if len(flips) > most:
        shown.append(f"and {len(flips) - most} more")
    return ", ".join(shown)


def name_digit(digit: int) -> str:
    """A digit of a `Flip` for people."""
    return "no digit" if digit == NO_DIGIT else str(digit)


def _drop(flips: Sequence[Flip], images: int) -> Drop:
    """The accuracy lost to flips.

    The interval is that of Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24, 2005: Wald's, after half a flip more in each direction and one image more without. The
    p-value is McNemar's, exact.
    """
    lost = sum(flip.reference == flip.label for flip in flips)
    won = sum(flip.candidate == flip.label for flip in flips)
    total, b, c = images + 2, lost + 0.5, won + 0.5
    middle = (b - c) / total
    reach = (
        statistics.NormalDist().inv_cdf((1 + CONFIDENCE_LEVEL) / 2) * math.sqrt(b + c - (b - c) ** 2 / total) / total
    )
    return Drop(
        value=(lost - won) / images,
        low=float(middle - reach),
        high=float(middle + reach),
        p_value=_two_sided(min(lost, won), lost + won),
    )


def _two_sided(fewer: int, flips: int) -> float:
    """How likely a fair coin, tossed once for each flip, falls as unevenly as this or more so."""
    ways = term = 1  # of falling on one side never, then once, twice, …
    for count in range(fewer):
        term = term * (flips - count) // (count + 1)
        ways += term
    return min(1.0, float(Fraction(2 * ways, 2**flips)))


def _digits(probabilities: Probabilities) -> Labels:
    """The most probable digit of each image; an image with no number at all has no digit, not the digit 0."""
    finite = np.isfinite(probabilities)
    return np.where(finite.any(axis=1), np.where(finite, probabilities, -1).argmax(axis=1), NO_DIGIT)
