"""Does an engine answer as the reference does? Pure functions over arrays: measure first, judge second.

The reference is the network as PyTorch computes it in FP32; the candidate is any engine. N images, 10 classes.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NO_DIGIT = -1


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What may differ.

    Attributes:
        max_difference: Largest difference of any probability.
        max_accuracy_drop: Accuracy lost against the reference, as a share of all images.
        max_flip_margin: An image may change its digit only where the reference's best probability leads its second
            best by no more than this: there the reference itself was undecided.
    """

    max_difference: float = 1e-3
    max_accuracy_drop: float = 5e-4
    max_flip_margin: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image on which reference and candidate name different digits. `margin` is the reference's lead."""

    image: int
    label: int
    reference: int
    candidate: int
    margin: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate against reference on N labelled images. Accuracies and agreement are shares from 0 to 1."""

    images: int
    agreement: float
    max_difference: float
    mean_difference: float
    reference_accuracy: float
    candidate_accuracy: float
    not_finite: int
    flips: list[Flip]


def measure(
    reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> Comparison:
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
    ranked = np.sort(reference, axis=1)
    margins = ranked[:, -1] - ranked[:, -2]
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
        not_finite=int(np.count_nonzero(~np.isfinite(reference + candidate).all(axis=1))),
        flips=flips,
    )


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
    drop = comparison.reference_accuracy - comparison.candidate_accuracy
    if not drop <= tolerances.max_accuracy_drop:
        findings.append(
            f"accuracy falls by {drop:.4%}, from {comparison.reference_accuracy:.2%} to "
            f"{comparison.candidate_accuracy:.2%}; at most {tolerances.max_accuracy_drop:.4%} is tolerated"
        )
    decided = [flip for flip in comparison.flips if not flip.margin <= tolerances.max_flip_margin]
    if decided:
        widest = max(flip.margin for flip in decided)
        findings.append(
            f"{len(decided)} images change their digit although the reference was decided "
            f"(lead up to {widest:.3g}, tolerated up to {tolerances.max_flip_margin:.3g}): {_list(decided)}"
        )
    return findings


def describe(comparison: Comparison) -> list[str]:
    """The comparison for people, one line per figure."""
    lines = [
        f"images               {comparison.images:,}",
        f"same digit           {comparison.agreement:.4%}",
        f"largest difference   {comparison.max_difference:.3g}",
        f"mean difference      {comparison.mean_difference:.3g}",
        f"reference accuracy   {comparison.reference_accuracy:.2%}",
        f"engine accuracy      {comparison.candidate_accuracy:.2%}",
    ]
    if comparison.flips:
        lines.append(f"changed digits       {_list(comparison.flips)}")
    return lines


def to_json(comparison: Comparison, tolerances: Tolerances) -> dict[str, object]:
    """Everything measured and the bounds it was held against, as plain data."""
    return {"comparison": dataclasses.asdict(comparison), "tolerances": dataclasses.asdict(tolerances)}


def _digits(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The most probable digit of each image; an image with no number at all has no digit, not the digit 0."""
    finite = np.isfinite(probabilities)
    return np.where(finite.any(axis=1), np.where(finite, probabilities, -1).argmax(axis=1), NO_DIGIT)


def _list(flips: list[Flip], most: int = 10) -> str:
    shown = [
        f"image {flip.image} ({flip.reference} became {flip.candidate}, label {flip.label})" for flip in flips[:most]
    ]
    if len(flips) > most:
        shown.append(f"and {len(flips) - most} more")
    return ", ".join(shown)
