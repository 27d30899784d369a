"""How good probabilities are, as numbers: pure functions of probabilities and labels.

Every figure is a well-kept library's; here it is decided which, and what they are called. N images, 10 digits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from scipy.stats import binned_statistic, binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from train.inference import Labels, Probabilities, cross_entropy

DIGITS = range(10)
CONFIDENCE_LEVEL = 0.95
CALIBRATION_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share of images, 0 to 1, with Wilson's confidence interval at `CONFIDENCE_LEVEL`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class DigitReport:
    """One digit against all others.

    Attributes:
        digit: Which.
        images: How many show it, also called its support.
        precision: Share of right answers among the images taken for it; 0 where none was.
        recall: Share of its images that were recognised, also called the digit's accuracy.
        f1: Harmonic mean of precision and recall; 0 where both are.
    """

    digit: int
    images: int
    precision: float
    recall: Proportion
    f1: float


@dataclass(frozen=True, kw_only=True)
class MacroReport:
    """Means over the ten digits, each of which counts the same."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence, the probability of the digit answered, lies from `low` to below `high`.

    The last bin includes 1. Without images there is neither a mean confidence nor an accuracy.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether answers given with a confidence of x are right in a share x of the cases.

    Attributes:
        expected_error: Expected calibration error: the mean, over all images, of the distance between
            their bin's confidence and accuracy.
        bins: Bins of equal width from 0 to 1.
    """

    expected_error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was answered for one image.

    Attributes:
        index: The image's place in its split, counted from 0.
        label: The digit that it shows.
        prediction: The digit answered.
        probability: That digit's probability.
    """

    index: int
    label: int
    prediction: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Accuracy on the same images, corrupted.

    Attributes:
        accuracies: By name of the corruption.
        mean_accuracy: Their mean, in which each corruption counts the same.
    """

    accuracies: dict[str, Proportion]
    mean_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything measured on one set of images.

    Attributes:
        images: How many there were.
        errors: How many got the wrong digit.
        accuracy: Share of images that got the right digit.
        loss: Mean cross-entropy, in nats.
        digits: One report for each digit, in their order.
        macro: Means of those.
        confusion: Images by digit shown (row) and digit answered (column), 10 rows of 10.
        calibration: Whether the probabilities keep what they promise.
        mistakes: The images that got the wrong digit, in the order of the images.
        robustness: The same network on the same images, corrupted.
    """

    images: int
    errors: int
    accuracy: Proportion
    loss: float
    digits: tuple[DigitReport, ...]
    macro: MacroReport
    confusion: tuple[tuple[int, ...], ...]
    calibration: Calibration
    mistakes: tuple[Answer, ...]
    robustness: Robustness


def evaluate(probabilities: Probabilities, labels: Labels, corrupted: Mapping[str, Probabilities]) -> Evaluation:
    """Measures everything.

    Args:
        probabilities: float32 [N, 10], finite, 0 to 1.
        labels: int64 [N]; each digit occurs.
        corrupted: For each corruption, at least one, the probabilities of the same images corrupted.

    Raises:
        ValueError: A digit does not occur, or the shapes do not belong together.
    """
    for name, each in {"probabilities": probabilities, **corrupted}.items():
        if each.shape != (len(labels), len(DIGITS)):
            raise ValueError(f"{name} is {each.shape}, expected {(len(labels), len(DIGITS))} for {len(labels)} labels")
    if absent := set(DIGITS) - set(labels.tolist()):
        raise ValueError(f"no image shows {sorted(absent)}; expected at least one image of each digit")
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    return Evaluation(
        images=len(labels),
        errors=len(wrong),
        accuracy=_right(probabilities, labels),
        loss=cross_entropy(probabilities, labels),
        digits=_digits(predictions, labels),
        macro=_macro(predictions, labels),
        confusion=tuple(map(tuple, confusion_matrix(labels, predictions, labels=DIGITS).tolist())),
        calibration=calibration(probabilities, labels),
        mistakes=answers(probabilities, labels, wrong.tolist()),
        robustness=_robustness(corrupted, labels),
    )


def proportion(count: int, total: int) -> Proportion:
    """Returns `count` of `total`, at least 1, with its interval."""
    interval = binomtest(count, total).proportion_ci(confidence_level=CONFIDENCE_LEVEL, method="wilson")
    return Proportion(value=count / total, low=float(interval.low), high=float(interval.high))


def calibration(probabilities: Probabilities, labels: Labels) -> Calibration:
    """Compares confidence, the probability of the digit answered, with accuracy."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = {"bins": CALIBRATION_BINS, "range": (0, 1)}
    counts, edges, _ = binned_statistic(confidence, None, "count", **bins)
    (confidences, accuracies), _, _ = binned_statistic(confidence, [confidence, right], "mean", **bins)
    # The library keeps a bin of its own for a confidence of exactly 1, which belongs to the last one.
    below_one = np.minimum(probabilities, np.nextafter(np.float32(1), np.float32(0)))
    error = multiclass_calibration_error(
        torch.from_numpy(below_one),
        torch.from_numpy(labels),
        num_classes=len(DIGITS),
        n_bins=CALIBRATION_BINS,
        norm="l1",
    )
    return Calibration(
        expected_error=error.item(),
        bins=tuple(
            Bin(
                low=float(edges[place]),
                high=float(edges[place + 1]),
                images=int(count),
                confidence=float(confidences[place]) if count else None,
                accuracy=float(accuracies[place]) if count else None,
            )
            for place, count in enumerate(counts)
        ),
    )


def answers(probabilities: Probabilities, labels: Labels, indices: Iterable[int]) -> tuple[Answer, ...]:
    """Returns what was answered for some of the images."""
    return tuple(
        Answer(
            index=index,
            label=int(labels[index]),
            prediction=int(probabilities[index].argmax()),
            probability=float(probabilities[index].max()),
        )
        for index in indices
    )


def _right(probabilities: Probabilities, labels: Labels) -> Proportion:
    return proportion(int(np.count_nonzero(probabilities.argmax(axis=1) == labels)), len(labels))


def _digits(predictions: Labels, labels: Labels) -> tuple[DigitReport, ...]:
    precision, _, f1, support = precision_recall_fscore_support(labels, predictions, labels=DIGITS, zero_division=0)
    return tuple(
        DigitReport(
            digit=digit,
            images=int(support[digit]),
            precision=float(precision[digit]),
            recall=proportion(int(np.count_nonzero(predictions[labels == digit] == digit)), int(support[digit])),
            f1=float(f1[digit]),
        )
        for digit in DIGITS
    )


def _macro(predictions: Labels, labels: Labels) -> MacroReport:
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=DIGITS, average="macro", zero_division=0
    )
    return MacroReport(precision=float(precision), recall=float(recall), f1=float(f1))


def _robustness(corrupted: Mapping[str, Probabilities], labels: Labels) -> Robustness:
    accuracies = {name: _right(probabilities, labels) for name, probabilities in corrupted.items()}
    return Robustness(
        accuracies=accuracies,
        mean_accuracy=fmean(accuracy.value for accuracy in accuracies.values()),
    )
