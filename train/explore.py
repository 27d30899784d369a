"""`python -m train.explore`: a data set at a glance, before anything is trained on it.

Prints what was found and writes it as `exploration.json` and as figures.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from train import command, data
from train.data import DataName, Dataset, Split
from train.errors import RunError
from train.report.figures import BLUE, RED, draw_digit, png, styled
from train.statistics import (
    DIGITS,
    ClassImages,
    Integers,
    Neighbours,
    Oddity,
    Pair,
    PixelValues,
    Place,
    Placement,
    class_counts,
    class_images,
    closest_pairs,
    doubtful,
    exact_duplicates,
    find_neighbours,
    outlying,
    pixel_values,
    placement,
    samples,
)
from train.storage import make_folder, save_json, write_bytes

DOCUMENT = "exploration.json"
FORMAT_VERSION = 1

_WIDTH = 6.0  # inches, as of all figures
_COLUMNS = 5  # of images that have captions
_LISTED = 10  # images, and pairs of each digit, in the JSON document


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitFindings:
    """What is found out about one split, compared with the training images.

    Attributes:
        name: `training` or `test`.
        split: The images.
        counts: int64 [10], how many show each digit.
        neighbours: The training images nearest to each.
        pairs: The closest pairs of an image of the split and a training image, closest first.
        doubtful: Images most like another class, oddest first; some may be mislabelled.
        outlying: Images furthest from their own class, oddest first.
    """

    name: str
    split: Split
    counts: Integers
    neighbours: Neighbours
    pairs: list[Pair]
    doubtful: list[Oddity]
    outlying: list[Oddity]


@dataclass(frozen=True, kw_only=True, eq=False)
class Exploration:
    """What is found out about a data set.

    Attributes:
        dataset: The data set.
        duplicates: Groups of equal images, over both splits.
        pixels: Of the training images, as all that follows.
        placement: Where their ink lies.
        class_images: Mean and deviation of each class.
        samples: int64 [10, 10], the indices of ten images of each digit.
        splits: Findings about the training and the test images.
    """

    dataset: Dataset
    duplicates: list[list[Place]]
    pixels: PixelValues
    placement: Placement
    class_images: ClassImages
    samples: Integers
    splits: tuple[SplitFindings, SplitFindings]


def explore(dataset: Dataset, seed: int = 0) -> Exploration:
    """Looks at a data set from all sides; with MNIST that takes a minute or two.

    Args:
        dataset: What to look at.
        seed: Decides which images are taken as samples.

    Raises:
        DataError: A class has too few images.
    """
    return Exploration(
        dataset=dataset,
        duplicates=exact_duplicates(dataset),
        pixels=pixel_values(dataset.train),
        placement=placement(dataset.train),
        class_images=class_images(dataset.train),
        samples=samples(dataset.train, 10, seed),
        splits=(
            _explore_split("training", dataset.train, dataset.train),
            _explore_split("test", dataset.test, dataset.train),
        ),
    )


def _explore_split(name: str, split: Split, train: Split) -> SplitFindings:
    neighbours = find_neighbours(split, train)
    return SplitFindings(
        name=name,
        split=split,
        counts=class_counts(split),
        neighbours=neighbours,
        pairs=closest_pairs(neighbours, split, train, _LISTED),
        doubtful=doubtful(neighbours, _LISTED),
        outlying=outlying(neighbours, _LISTED),
    )


# The figures


def draw(exploration: Exploration) -> dict[str, Figure]:
    """Draws all figures; the keys are their names."""
    train = exploration.dataset.train
    figures = {
        "classes": classes_figure(exploration),
        "pixels": pixels_figure(exploration.pixels),
        "placement": placement_figure(exploration.placement),
        "class_images": class_images_figure(exploration.class_images),
        "samples": samples_figure(train, exploration.samples),
        "distances": distances_figure(exploration),
    }
    for findings in exploration.splits:
        split, name = findings.split, findings.name
        like_another = f"{name.capitalize()} images most like another class"
        far_away = f"{name.capitalize()} images furthest from their own class"
        figures |= {
            f"closest_{name}": pairs_figure(findings, train),
            f"doubtful_{name}": oddities_figure(split, findings.doubtful, train, like_another),
            f"outlying_{name}": oddities_figure(split, findings.outlying, train, far_away),
        }
    return figures


@styled
def classes_figure(exploration: Exploration) -> Figure:
    """How many training and test images show each digit."""
    figure = Figure(figsize=(_WIDTH, 5))
    for axes, findings, colour in zip(figure.subplots(2, 1), exploration.splits, (BLUE, RED), strict=True):
        bars = axes.bar(range(DIGITS), findings.counts, color=colour)
        axes.bar_label(bars, [f"{count:,}" for count in findings.counts], fontsize=9)
        axes.set(title=f"{len(findings.split):,} {findings.name} images", ylabel="images", xticks=range(DIGITS))
        axes.grid(visible=False, axis="x")
    axes.set_xlabel("digit")
    return figure


@styled
def pixels_figure(pixels: PixelValues) -> Figure:
    """How often each value of a pixel occurs, on a logarithmic scale."""
    figure = Figure(figsize=(_WIDTH, 3.4))
    axes = figure.subplots()
    axes.stairs(pixels.histogram, np.arange(257) - 0.5, fill=True, color=BLUE)
    axes.set(
        title=f"{pixels.zero_share:.1%} of the pixels are 0\n"
        f"scaled to 0..1: mean {pixels.mean:.4f}, standard deviation {pixels.standard_deviation:.4f}",
        xlabel="value",
        ylabel="training pixels",
        yscale="log",
    )
    return figure


@styled
def placement_figure(placement: Placement) -> Figure:
    """Height and width of the boxes around the ink, and its centres of mass."""
    figure = Figure(figsize=(_WIDTH, 5))
    edges = [size - 0.5 for size in range(30)]
    shown = {
        "height of the ink, pixels": (placement.heights, edges),
        "width of the ink, pixels": (placement.widths, edges),
        "centre of mass, row": (placement.rows, 50),
        "centre of mass, column": (placement.columns, 50),
    }
    rows = figure.subplots(2, 2, sharey="row")
    for axes, (name, (values, bins)) in zip(rows.flat, shown.items(), strict=True):
        axes.hist(values, bins, color=BLUE)
        axes.set_xlabel(name)
        axes.locator_params(axis="x", nbins=4)
    for axes in rows[:, 0]:
        axes.set_ylabel("training images")
    return figure


@styled
def class_images_figure(images: ClassImages) -> Figure:
    """Mean image of each class, and below it the standard deviation, darkest where the images differ most."""
    figure = Figure(figsize=(_WIDTH, 1.7))
    rows = figure.subplots(2, DIGITS)
    for cells, name, values in zip(rows, ("mean", "deviation"), (images.mean, images.standard_deviation), strict=True):
        for axes, image in zip(cells, values, strict=True):
            draw_digit(axes, 255 * image[None] / values.max())
        cells[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


@styled
def samples_figure(split: Split, indices: Integers) -> Figure:
    """Images of a split: those of `indices`, int64 [R, C], in R rows."""
    figure = Figure(figsize=(_WIDTH, _WIDTH * indices.shape[0] / indices.shape[1]))
    cells = figure.subplots(*indices.shape, squeeze=False)
    for axes, index in zip(cells.flat, indices.flat, strict=True):
        draw_digit(axes, split.pixels[index].numpy())
    return figure


@styled
def distances_figure(exploration: Exploration) -> Figure:
    """How far the nearest training image is, from training images and from test images."""
    figure = Figure(figsize=(_WIDTH, 3.6))
    axes = figure.subplots()
    furthest = max(each.neighbours.nearest_distance.max() for each in exploration.splits)
    edges = np.linspace(0, furthest, 60).tolist()
    for findings, colour, line in zip(exploration.splits, (BLUE, RED), ("-", "--"), strict=True):
        distances = findings.neighbours.nearest_distance
        weights = np.full(len(distances), 1 / len(distances))
        label = f"{findings.name} images"
        axes.hist(distances, edges, weights=weights, histtype="step", color=colour, linestyle=line, label=label)
    axes.set(xlabel="distance to the nearest training image", ylabel="share of the images")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    # Above the curves, which may be anywhere below.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


@styled
def pairs_figure(findings: SplitFindings, train: Split) -> Figure:
    """Of each digit the closest pair: an image of the split above a training image."""
    closest = {pair.label: pair for pair in reversed(findings.pairs)}
    figure = Figure(figsize=(_WIDTH, 6.6))
    figure.suptitle(f"Closest pairs: {findings.name} image above, training image below", fontsize=11)
    cells = figure.subplots(4, _COLUMNS)
    for digit, above, below in zip(range(DIGITS), cells[::2].flat, cells[1::2].flat, strict=True):
        pair = closest[digit]
        _show(above, findings.split, pair.index, f"distance {pair.distance:.2f}\n")
        _show(below, train, pair.other)
    return figure


@styled
def oddities_figure(split: Split, oddities: list[Oddity], train: Split, title: str) -> Figure:
    """The first odd images, each above the training images nearest to it of its own label and of another."""
    figure = Figure(figsize=(_WIDTH, 4.8))
    figure.suptitle(title, fontsize=11)
    cells = figure.subplots(3, _COLUMNS)
    for (image, own, other), odd in zip(cells.T, oddities, strict=False):
        _show(image, split, odd.index)
        _show(own, train, odd.nearest)
        _show(other, train, odd.other_nearest)
    for axes, name in zip(cells[:, 0], ("odd image", "same label", "other label"), strict=True):
        axes.set_ylabel(name)
    return figure


def _show(axes: Axes, split: Split, index: int, title: str = "") -> None:
    """Draws an image under its label and its index."""
    draw_digit(axes, split.pixels[index].numpy())
    axes.set_title(f"{title}{split.labels[index]}  #{index}", fontsize=10, pad=3)


# The command


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data set to look at, and where to write. The fields' docstrings are the command line's help."""

    data: DataName = "mnist"
    """Data set; digits8x8 is small, comes with scikit-learn and needs no download."""

    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that holds MNIST/raw, or will after the download; by default $DIGITS_DATA_ROOT, else data."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write to; by default runs/explore-DATA. What an earlier exploration wrote there is replaced."""

    seed: int = 0
    """Decides which images are shown as samples."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise RunError(f"--seed is {self.seed}; it must be at least 0")

    @property
    def folder(self) -> Path:
        """`out`, or its default."""
        return self.out or Path("runs") / f"explore-{self.data}"


def run(options: Options) -> Exploration:
    """Explores, prints and writes.

    Raises:
        TrainError: Nothing was written, unless it is a WriteError.
    """
    folder, figures = options.folder, options.folder / "figures"
    # Before a minute of work, not after it.
    for each in (figures, folder):
        make_folder(each, "choose another folder with --out")
    exploration = explore(data.load(options.data, options.data_root), options.seed)
    print(describe(exploration), flush=True)
    drawn = draw(exploration)
    for name, figure in drawn.items():
        write_bytes(figures / f"{name}.png", png(figure))
    save_json(folder / DOCUMENT, to_json(exploration))
    print(f"written to {folder}: {DOCUMENT} and {len(drawn)} figures")
    return exploration


def describe(exploration: Exploration) -> str:
    """Says in a few lines what was found."""
    pixels, placement = exploration.pixels, exploration.placement
    lines = {
        **{f"{each.name} images": _counts(each.counts) for each in exploration.splits},
        "training pixels": f"mean {pixels.mean:.4f}, standard deviation {pixels.standard_deviation:.4f}, "
        f"{pixels.zero_share:.1%} are 0",
        "ink": f"{placement.heights.min()} to {placement.heights.max()} pixels high, "
        f"{placement.widths.min()} to {placement.widths.max()} wide; centre of mass at row "
        f"{placement.rows.mean():.1f} ± {placement.rows.std():.1f}, column "
        f"{placement.columns.mean():.1f} ± {placement.columns.std():.1f}",
        "equal images": _duplicates(exploration.duplicates),
        **{f"{each.name} neighbours": _neighbours(each) for each in exploration.splits},
        "most like another class": "; ".join(_doubtful(each) for each in exploration.splits),
        "furthest from its class": "; ".join(_outlying(each) for each in exploration.splits),
    }
    width = max(map(len, lines))
    return "\n".join((exploration.dataset.name, *(f"  {name:{width}}  {text}" for name, text in lines.items())))


def _counts(counts: Integers) -> str:
    return (
        f"{counts.sum():,}: from {counts.min():,} that show {counts.argmin()} "
        f"to {counts.max():,} that show {counts.argmax()}"
    )


def _duplicates(groups: list[list[Place]]) -> str:
    if not groups:
        return "none"
    conflicts = sum(len({place.label for place in group}) > 1 for group in groups)
    return f"{len(groups):,} groups, {conflicts:,} of them with different labels"


def _neighbours(findings: SplitFindings) -> str:
    neighbours, closest = findings.neighbours, findings.pairs[0]
    return (
        f"{neighbours.agreement:.2%} have the label of the nearest training image, "
        f"{np.median(neighbours.nearest_distance):.2f} away (median); closest pair: {findings.name} #{closest.index} "
        f"and training #{closest.other}, {closest.distance:.2f}"
    )


def _doubtful(findings: SplitFindings) -> str:
    odd = findings.doubtful[0]
    return f"{findings.name} #{odd.index}, labelled {odd.label}, like {odd.other_label}"


def _outlying(findings: SplitFindings) -> str:
    odd = findings.outlying[0]
    return f"{findings.name} #{odd.index}, labelled {odd.label}, {odd.distance:.1f} away"


def to_json(exploration: Exploration) -> dict[str, Any]:
    """Everything found, as plain values."""
    dataset, pixels, placement = exploration.dataset, exploration.pixels, exploration.placement
    return {
        "format_version": FORMAT_VERSION,
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "pixels": {
            "mean": pixels.mean,
            "standard_deviation": pixels.standard_deviation,
            "zero_share": pixels.zero_share,
            "histogram": pixels.histogram.tolist(),
        },
        "ink": {name: _spread(values) for name, values in vars(placement).items()},
        "samples": exploration.samples.tolist(),
        "equal_images": [[asdict(place) for place in group] for group in exploration.duplicates],
        **{each.name: _split_to_json(each) for each in exploration.splits},
    }


def _split_to_json(findings: SplitFindings) -> dict[str, Any]:
    return {
        "images": len(findings.split),
        "counts": findings.counts.tolist(),
        "nearest": {
            "agreement": findings.neighbours.agreement,
            "distance": _spread(findings.neighbours.nearest_distance),
        },
        "closest_pairs": [asdict(pair) for pair in findings.pairs],
        "doubtful": [asdict(odd) for odd in findings.doubtful],
        "outlying": [asdict(odd) for odd in findings.outlying],
    }


def _spread(values: NDArray[Any]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "standard_deviation": float(values.std()),
        **{name: float(np.quantile(values, share)) for name, share in (("least", 0), ("median", 0.5), ("most", 1))},
    }


def main() -> int:
    """Exit status: 0 when everything was written, 1 when it was not, 130 after Ctrl-C."""
    return command.run(
        lambda: run(tyro.cli(Options, prog="python -m train.explore", description=__doc__)),
        interrupted="there is no new exploration",
    )


if __name__ == "__main__":
    sys.exit(main())
