"""Numbered pictures of the test digits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.pictures.drawings import drawing
from benchmarks.pictures.photos import photo
from benchmarks.pictures.scans import scan
from benchmarks.pictures.strokes import Bytes, trace
from train import data

STYLES = {"photo": photo, "scan": scan, "drawing": drawing}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of one digit.

    Attributes:
        data: The file.
        label: The digit that it shows.
        factors: What it is like, by names of its style: pen, surface, light and others.
    """

    data: bytes
    label: int
    factors: dict[str, str]


class Maker:
    """Makes pictures of digits, uint8 [N, 28, 28] with labels [N], by their numbers.

    Pictures of one style, from 0 to N - 1, show all digits once, in an order that depends on seed and style.
    """

    def __init__(self, pixels: Bytes, labels: npt.NDArray[np.int64], *, seed: int = 0) -> None:
        self.pixels = pixels
        self.labels = labels
        self.seed = seed

    @classmethod
    def of_mnist(cls, *, seed: int = 0) -> "Maker":
        """Of the test images.

        Raises:
            train.errors.DataError: They are not at hand and cannot be downloaded.
        """
        test = data.load("mnist").test
        return cls(test.pixels[:, 0].numpy(), test.labels.numpy(), seed=seed)

    def order(self, style: str) -> npt.NDArray[np.int64]:
        """Which digits the pictures of a style show."""
        return np.random.default_rng([self.seed, _number(style)]).permutation(len(self.labels))

    def picture(self, style: str, index: int) -> Picture:
        """Picture `index` of a style of `STYLES`."""
        which = self.order(style)[index % len(self.labels)]
        rng = np.random.default_rng([self.seed, _number(style), index])
        file, factors = STYLES[style](rng, trace(self.pixels[which]))
        return Picture(data=file, label=int(self.labels[which]), factors=factors)


def _number(style: str) -> int:
    return list(STYLES).index(style)
