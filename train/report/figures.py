"""The figures of an evaluation. Each function turns data into a figure and leaves nothing behind.

Figures are narrow and their letters large, so that they can still be read on a telephone. Digits are drawn as dark ink
on white paper. Colours are Okabe and Ito's, which people with any colour vision can tell apart, and none carries
meaning alone.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from train.report.metrics import DIGITS, Answer, Bin, Calibration, DigitReport, Proportion, Robustness

Pixels = NDArray[np.uint8]
"""uint8 [N, 1, 28, 28], white ink (255) on black (0)."""

GRID_IMAGES = 25
"""How many images a grid of them shows at most."""

BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#d55e00", "#6b6b6b"

_WIDTH = 6.0  # inches
_DOTS_PER_INCH = 200
_COLUMNS = 5  # of a grid of digits
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 11,
    "grid.color": "#e2e2e2",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "xtick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.color": GREY,
    "ytick.labelcolor": "black",
}

_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Draws in this module's style, and puts back what was set before."""

    @wraps(draw)
    def drawn(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with style.context(["default", _STYLE]):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """Renders a figure."""
    buffer = io.BytesIO()
    with style.context(["default", _STYLE]):
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


@styled
def samples(pixels: Pixels, labels: Sequence[int]) -> Figure:
    """Images under the digits that they show."""
    return _grid(pixels, [(str(label), "black") for label in labels])


@styled
def answers(pixels: Pixels, given: Sequence[Answer]) -> Figure:
    """Images under the digit shown, the digit answered and, in brackets, its probability."""
    return _grid(
        pixels,
        [
            (
                f"{answer.label} → {answer.prediction} ({answer.probability:.0%})",
                "black" if answer.label == answer.prediction else RED,
            )
            for answer in given
        ],
    )


@styled
def learning_curves(epochs: Sequence[Mapping[str, float]], best: int) -> Figure:
    """Accuracy and loss, in training and on the images held out, by epoch.

    Args:
        epochs: For each epoch `epoch`, `train_loss`, `train_accuracy`, `validation_loss` and `validation_accuracy`.
        best: The epoch whose weights were kept.
    """
    figure = Figure(figsize=(_WIDTH, 5))
    numbers = [epoch["epoch"] for epoch in epochs]
    rows = figure.subplots(2, 2, sharex=True)
    for row, quantity, colour in zip(rows, ("accuracy", "loss"), (BLUE, RED), strict=True):
        for axes, part in zip(row, ("train", "validation"), strict=True):
            values = [epoch[f"{part}_{quantity}"] for epoch in epochs]
            axes.plot(numbers, values, color=colour, marker=".", clip_on=False)
            axes.axvline(best, color=GREY, linestyle=":", linewidth=1.2)
            axes.set_title(f"{'training' if part == 'train' else part} {quantity}")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            if quantity == "accuracy":
                axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            else:
                axes.set_ylim(bottom=0)
                axes.set_xlabel("epoch")
    return figure


@styled
def confusion_matrix(counts: Sequence[Sequence[int]]) -> Figure:
    """Images by digit shown (row) and digit answered (column); the shade counts mistakes only."""
    matrix = np.array(counts)
    mistakes = matrix * (1 - np.eye(len(matrix), dtype=int))
    most = max(mistakes.max(), 1)
    figure = Figure(figsize=(_WIDTH, 5.8))
    axes = figure.subplots()
    axes.imshow(mistakes, cmap="Oranges", vmax=1.6 * most)  # the darkest shades would hide the figures
    for row, column in np.ndindex(*matrix.shape):
        count = matrix[row, column]
        if row == column:
            axes.text(column, row, f"{count}", ha="center", va="center", color=GREY, fontsize=10)
        elif count:
            axes.text(column, row, f"{count}", ha="center", va="center", fontweight="bold")
    axes.set(xticks=DIGITS, yticks=DIGITS, xlabel="digit answered", ylabel="digit shown")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def digit_accuracy(digits: Sequence[DigitReport], overall: Proportion) -> Figure:
    """Accuracy of each digit with its confidence interval, and that of all images as a line."""
    figure = Figure(figsize=(_WIDTH, 3.8))
    axes = figure.subplots()
    recalls = [digit.recall for digit in digits]
    values = [recall.value for recall in recalls]
    axes.axhline(overall.value, color=GREY, linestyle="--", linewidth=1.2)
    axes.errorbar(
        [digit.digit for digit in digits], values, yerr=_margins(recalls), fmt="o", color=BLUE, markersize=7, capsize=4
    )
    axes.set(xticks=DIGITS, xlabel="digit", ylabel="accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(visible=False, axis="x")
    return figure


@styled
def reliability(calibration: Calibration) -> Figure:
    """Accuracy by confidence, bin by bin, against the diagonal of perfect calibration; below, images per bin."""
    figure = Figure(figsize=(_WIDTH, 6))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [each for each in calibration.bins if each.images]
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="perfect calibration")
    _bars(above, filled, [each.accuracy or 0 for each in filled], color=BLUE, alpha=0.75, label="accuracy")
    above.plot(
        [each.confidence for each in filled],
        [each.accuracy for each in filled],
        color=ORANGE,
        linestyle="none",
        marker="D",
        markersize=6,
        markeredgecolor="black",
        clip_on=False,
        label="at the mean confidence",
    )
    above.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
    above.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    above.legend(loc="upper left")
    _bars(below, filled, [each.images for each in filled], color=GREY)
    below.set(yscale="log", ylim=(0.7, None), xlabel="confidence", ylabel="images")
    below.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


@styled
def corruption_accuracy(robustness: Robustness, clean: Proportion) -> Figure:
    """Accuracy on the images as they are and under each corruption."""
    shown = {"as they are": clean, **robustness.accuracies}
    figure = Figure(figsize=(_WIDTH, 1 + 0.34 * len(shown)))
    axes = figure.subplots()
    bars = axes.barh(
        [_words(name) for name in shown],
        [accuracy.value for accuracy in shown.values()],
        xerr=_margins(shown.values()),
        color=[GREY, *[BLUE] * len(robustness.accuracies)],
        error_kw={"capsize": 2.5, "linewidth": 1},
    )
    axes.bar_label(bars, [f" {accuracy.value:.2%}" for accuracy in shown.values()], padding=3)
    axes.set(xlim=(0, 1.19), xticks=np.linspace(0, 1, 6), xlabel="accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    return figure


@styled
def corruption_examples(rows: Mapping[str, Pixels]) -> Figure:
    """For each corruption one row of images."""
    columns = max(len(pixels) for pixels in rows.values())
    side = 0.56  # inches
    figure = Figure(figsize=(_WIDTH, side * len(rows)))
    cells = figure.subplots(len(rows), columns, squeeze=False)
    for cells_of_row, (name, pixels) in zip(cells, rows.items(), strict=True):
        for axes, image in zip(cells_of_row, pixels, strict=True):
            draw_digit(axes, image)
        cells_of_row[0].set_ylabel(_words(name), rotation=0, ha="right", va="center")
    return figure


def _grid(pixels: Pixels, titles: Sequence[tuple[str, str]]) -> Figure:
    """Images [N, 1, 28, 28] in rows, under N titles with their colours."""
    rows = -(-len(pixels) // _COLUMNS)
    figure = Figure(figsize=(_WIDTH, 1.32 * rows))
    cells = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, image, (title, colour) in zip(cells, pixels, titles, strict=False):
        draw_digit(axes, image)
        axes.set_title(title, color=colour, pad=3)
    for axes in cells[len(pixels) :]:
        axes.set_axis_off()
    return figure


def draw_digit(axes: Axes, image: Pixels) -> None:
    """Draws one image as dark ink in a thin frame."""
    axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#d0d0d0")


def _bars(axes: Axes, bins: Iterable[Bin], heights: Sequence[float], **looks: Any) -> None:
    axes.bar(
        [each.low for each in bins],
        heights,
        width=[each.high - each.low for each in bins],
        align="edge",
        edgecolor="white",
        **looks,
    )


def _margins(proportions: Iterable[Proportion]) -> NDArray[np.float64]:
    """How far the intervals reach below and above their values: [2, N]."""
    return np.array([(each.value - each.low, each.high - each.value) for each in proportions]).T


def _words(name: str) -> str:
    return name.replace("_", " ")
