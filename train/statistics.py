"""What a data set holds, in numbers: classes, pixels, where the ink lies, and which images are alike or odd.

Distances are Euclidean, over all 784 pixels, each scaled to 0..1. Shapes: N images, 10 digits.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from train.data import Dataset, Split
from train.errors import DataError

DIGITS = 10

# Of each class. One neighbour may itself be mislabelled; the mean over three is not misled by that.
NEAREST = 3

# Rows of the distance matrix at a time: with 60,000 columns, 120 MB.
_BLOCK = 500

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PixelValues:
    """How often each value of a pixel occurs.

    Attributes:
        histogram: int64 [256], number of pixels of each value.
    """

    histogram: Integers

    @property
    def zero_share(self) -> float:
        """Share of the pixels without any ink, 0 to 1."""
        return float(self.histogram[0] / self.histogram.sum())

    @property
    def mean(self) -> float:
        """Mean of the pixels scaled to 0..1."""
        return self._moment(1)

    @property
    def standard_deviation(self) -> float:
        """Standard deviation of the pixels scaled to 0..1."""
        return float(np.sqrt(max(0.0, self._moment(2) - self.mean**2)))

    def _moment(self, power: int) -> float:
        return float(self.histogram @ (np.arange(256) / 255) ** power / self.histogram.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where the ink lies in each image that has any.

    Attributes:
        heights: int64 [N], rows of the smallest box around all ink.
        widths: int64 [N], its columns.
        rows: float64 [N], centre of mass from the top; 0 is the middle of the first row of pixels.
        columns: float64 [N], the same from the left.
    """

    heights: Integers
    widths: Integers
    rows: Floats
    columns: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassImages:
    """The images of each class, pixel by pixel.

    Attributes:
        mean: float64 [10, 28, 28], 0..1.
        standard_deviation: float64 [10, 28, 28].
    """

    mean: Floats
    standard_deviation: Floats


@dataclass(frozen=True, kw_only=True)
class Place:
    """One image of a data set.

    Attributes:
        split: `training` or `test`.
        index: Its place there, counted from 0.
        label: The digit that it is said to show.
    """

    split: str
    index: int
    label: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The training images of each class that are nearest to each image, nearest first.

    Attributes:
        labels: int64 [N], the label of each image.
        indices: int64 [N, 10, NEAREST], which training images.
        distances: float64 [N, 10, NEAREST], how far they are. Near 0 only to about 0.01: `closest_pairs` is exact.
        within: Whether the images are the training images themselves; none is then its own neighbour.
    """

    labels: Integers
    indices: Integers
    distances: Floats
    within: bool

    @property
    def nearest_label(self) -> Integers:
        """int64 [N]: the class of the nearest training image."""
        nearest: Integers = self.distances[:, :, 0].argmin(axis=1)
        return nearest

    @property
    def nearest_distance(self) -> Floats:
        """float64 [N]: the distance of the nearest training image."""
        nearest: Floats = self.distances[:, :, 0].min(axis=1)
        return nearest

    @property
    def agreement(self) -> float:
        """Share of the images whose nearest training image has the same label, 0 to 1."""
        return float(np.mean(self.nearest_label == self.labels))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images that are alike.

    Attributes:
        index: The first, in the split that was looked at.
        label: The digit that it is said to show.
        other: The second, a training image.
        other_label: Its digit.
        distance: Between them.
    """

    index: int
    label: int
    other: int
    other_label: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class Oddity:
    """An image far from its own class.

    Attributes:
        index: Which image.
        label: The digit that it is said to show.
        distance: Mean distance to the `NEAREST` training images of that label.
        nearest: The nearest of them.
        other_label: The digit whose `NEAREST` training images are nearest, apart from its own.
        other_distance: Mean distance to those.
        other_nearest: The nearest of those.
    """

    index: int
    label: int
    distance: float
    nearest: int
    other_label: int
    other_distance: float
    other_nearest: int


def class_counts(split: Split) -> Integers:
    """Returns how many images show each digit, int64 [10]."""
    counts: Integers = split.labels.bincount(minlength=DIGITS).numpy()
    return counts


def pixel_values(split: Split) -> PixelValues:
    """Counts the values of all pixels."""
    return PixelValues(np.bincount(split.pixels.numpy().ravel(), minlength=256))


def placement(split: Split) -> Placement:
    """Measures where the ink lies; images without ink are left out."""
    pixels = split.pixels[:, 0]
    pixels = pixels[pixels.flatten(1).amax(dim=1) > 0]
    (heights, rows), (widths, columns) = (_along(pixels.sum(dim=dim)) for dim in (2, 1))
    return Placement(heights=heights, widths=widths, rows=rows, columns=columns)


def _along(ink: Tensor) -> tuple[Integers, Floats]:
    """Extent and centre of the ink along one direction, from the sums of its lines, int64 [N, 28]."""
    inked = (ink > 0).to(torch.uint8)
    first, last = inked.argmax(dim=1), 27 - inked.flip(1).argmax(dim=1)
    centre = (ink * torch.arange(28)).sum(dim=1).double() / ink.sum(dim=1)
    return (last - first + 1).numpy(), centre.numpy()


def class_images(split: Split) -> ClassImages:
    """Takes mean and standard deviation over the images of each class.

    Raises:
        DataError: A class has no images.
    """
    _require(split, 1)
    classes = [split.pixels[split.labels == digit, 0].double() / 255 for digit in range(DIGITS)]
    return ClassImages(
        mean=torch.stack([images.mean(dim=0) for images in classes]).numpy(),
        standard_deviation=torch.stack([images.std(dim=0, correction=0) for images in classes]).numpy(),
    )


def samples(split: Split, count: int, seed: int) -> Integers:
    """Draws images at random.

    Returns:
        Their indices, int64 [10, count]: a row for each class.

    Raises:
        DataError: A class has fewer images than `count`.
    """
    _require(split, count)
    random = np.random.default_rng(seed)
    labels = split.labels.numpy()
    return np.stack([random.choice(np.flatnonzero(labels == digit), count, replace=False) for digit in range(DIGITS)])


def exact_duplicates(dataset: Dataset) -> list[list[Place]]:
    """Returns the groups of two images or more, of both splits, whose pixels are all equal."""
    groups: dict[bytes, list[Place]] = defaultdict(list)
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        for index, (pixels, label) in enumerate(zip(split.pixels.numpy(), split.labels.tolist(), strict=True)):
            groups[pixels.tobytes()].append(Place(split=name, index=index, label=label))
    return [group for group in groups.values() if len(group) > 1]


def find_neighbours(split: Split, among: Split) -> Neighbours:
    """Finds the nearest images of each class, by comparing every image with every other.

    60,000 images with themselves take about a minute on one core, and less than 1 GB of memory.

    Args:
        split: The images whose neighbours are wanted.
        among: Where to look for them: the training images. If it is `split` itself, no image is its own neighbour.

    Raises:
        DataError: A class has no images, or too few to look among.
    """
    _require(split, 1)
    _require(among, NEAREST + 1)
    # With the images of a class side by side, those nearest of each class are found without looking at labels.
    order = among.labels.argsort(stable=True)
    counts = among.labels.bincount().tolist()
    references = _flat(among.pixels[order])
    squares = references.square().sum(dim=1)
    place = order.argsort()
    indices, distances = [], []
    for rows in _blocks(len(split)):
        images = _flat(split.pixels[rows])
        # |a - b|² = |a|² + |b|² - 2ab; |a|² is the same for a whole row and added to the few that remain.
        partial = torch.addmm(squares, images, references.T, alpha=-2)
        if split is among:
            partial[torch.arange(len(images)), place[rows]] = torch.inf
        best = [part.topk(NEAREST, dim=1, largest=False) for part in torch.split(partial, counts, dim=1)]
        squared = torch.stack([each.values for each in best], dim=1) + images.square().sum(dim=1)[:, None, None]
        distances.append(squared.clamp(min=0).sqrt())
        starts = np.cumsum([0, *counts[:-1]])
        indices.append(torch.stack([order[start + each.indices] for start, each in zip(starts, best, strict=True)], 1))
    return Neighbours(
        labels=split.labels.numpy(),
        indices=torch.cat(indices).numpy(),
        distances=torch.cat(distances).double().numpy(),
        within=split is among,
    )


def _blocks(count: int) -> Iterator[slice]:
    for start in tqdm(range(0, count, _BLOCK), desc="comparing images", leave=False, disable=None):
        yield slice(start, start + _BLOCK)


def _flat(pixels: Tensor) -> Tensor:
    """Pixels as float32 [N, 784] of 0..1."""
    return pixels.flatten(1).to(torch.float32) / 255


def closest_pairs(neighbours: Neighbours, split: Split, among: Split, count: int) -> list[Pair]:
    """Returns the `count` closest pairs of each digit; of all, the smallest distance comes first.

    Where all pairs compete, the thin strokes of ones leave no room for others. A pair belongs to the digit of its first
    image. The distances are computed exactly.

    Args:
        neighbours: What `find_neighbours` found for `split` in `among`.
        split: The images that were looked at.
        among: The training images.
        count: How many pairs of each digit; fewer are returned if there are no more.
    """
    firsts = np.broadcast_to(np.arange(len(split))[:, None, None], neighbours.indices.shape).ravel()
    seconds = neighbours.indices.ravel()
    if neighbours.within:
        # Either of the two may have found the other, or both.
        firsts, seconds = np.minimum(firsts, seconds), np.maximum(firsts, seconds)
    labels = neighbours.labels[firsts]
    order = np.argsort(neighbours.distances.ravel(), kind="stable")
    found: list[Pair] = []
    for digit in range(DIGITS):
        # More than are wanted: a pair may come twice, and nearly equal ones change places by exact computation.
        candidates = order[labels[order] == digit][: 4 * count]
        pairs = np.unique(np.stack([firsts[candidates], seconds[candidates]], axis=1), axis=0).tolist()
        measured = [_pair(split, first, among, second) for first, second in pairs]
        found += sorted(measured, key=lambda pair: pair.distance)[:count]
    return sorted(found, key=lambda pair: pair.distance)


def _pair(split: Split, index: int, among: Split, other: int) -> Pair:
    difference = (split.pixels[index].double() - among.pixels[other].double()) / 255
    return Pair(
        index=index,
        label=int(split.labels[index]),
        other=other,
        other_label=int(among.labels[other]),
        distance=difference.norm().item(),
    )


def doubtful(neighbours: Neighbours, count: int) -> list[Oddity]:
    """Returns the images that look most like those of another class, oddest first; some may be mislabelled.

    They are those whose distance to their own class is largest in proportion to that to the nearest other class.
    """
    own, other, _ = _to_classes(neighbours)
    # The other class is at a distance of 0 where its nearest images are all duplicates of this one.
    return _oddities(neighbours, own / np.maximum(other, 1e-6), count)


def outlying(neighbours: Neighbours, count: int) -> list[Oddity]:
    """Returns the images that are furthest from all others of their class, oddest first."""
    own, _, _ = _to_classes(neighbours)
    return _oddities(neighbours, own, count)


def _oddities(neighbours: Neighbours, score: Floats, count: int) -> list[Oddity]:
    own, other, other_label = _to_classes(neighbours)
    return [
        Oddity(
            index=int(index),
            label=int(neighbours.labels[index]),
            distance=float(own[index]),
            nearest=int(neighbours.indices[index, neighbours.labels[index], 0]),
            other_label=int(other_label[index]),
            other_distance=float(other[index]),
            other_nearest=int(neighbours.indices[index, other_label[index], 0]),
        )
        for index in np.argsort(-score, kind="stable")[:count]
    ]


def _to_classes(neighbours: Neighbours) -> tuple[Floats, Floats, Integers]:
    """Distance to the own class and to the nearest other one, float64 [N], and which that is, int64 [N]."""
    distances = neighbours.distances.mean(axis=2)
    everyone = np.arange(len(distances))
    own = distances[everyone, neighbours.labels]
    distances[everyone, neighbours.labels] = np.inf
    other_label = distances.argmin(axis=1)
    return own, distances[everyone, other_label], other_label


def _require(split: Split, least: int) -> None:
    counts = class_counts(split)
    if counts.min() < least:
        raise DataError(
            f"the digits 0 to 9 have {', '.join(map(str, counts))} images; each needs at least {least}. "
            "Explore a larger data set"
        )
