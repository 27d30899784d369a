"""Corruptions of the test images: how handwriting differs from MNIST when other people write and photograph it.

Each is fixed: strength and seed stand here, so that a figure means the same everywhere. They are
stronger than most of what training sees, and are never trained on as they stand.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from train.data import Split
from train.transforms import distort

_SEED = 20_000


class _Batch:
    """A batch of images with the random numbers of one corruption."""

    def __init__(self, images: Tensor, generator: Generator) -> None:
        self.images = images
        self._generator = generator

    def sign(self) -> Tensor:
        """-1 or 1 for each image: [N]."""
        return torch.randint(0, 2, (len(self.images),), generator=self._generator) * 2.0 - 1

    def uniform(self, low: float, high: float) -> Tensor:
        """A number for each image: [N]."""
        return low + (high - low) * torch.rand(len(self.images), generator=self._generator)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self._generator)

    def constant(self, value: float) -> Tensor:
        """The same number for each image: [N]."""
        return torch.full((len(self.images),), float(value))

    def warp(self, *, angle: float = 0, slant: float = 0, zoom: float = 1, shift: float = 0, bend: float = 0) -> Tensor:
        """Warps each image by these amounts in a direction of its own; degrees, a factor, and pixels."""
        count, direction = len(self.images), self.uniform(0, 2 * math.pi)
        return distort.warp(
            self.images,
            angle=self.sign() * math.radians(angle),
            slant=self.sign() * math.tan(math.radians(slant)),
            zoom=torch.full((2, count), float(zoom)),
            shift=shift * torch.stack((torch.cos(direction), torch.sin(direction))),
            bend=bend * self.normal(count, 2, 6, 6) if bend else None,
        )


def _thin(batch: _Batch) -> Tensor:
    return distort.thicken(batch.images, batch.constant(-0.6))


def _thick(batch: _Batch) -> Tensor:
    return distort.thicken(batch.images, batch.constant(0.9))


def _faint(batch: _Batch) -> Tensor:
    return distort.fade(batch.images, ink=batch.uniform(0.3, 0.6), paper=batch.uniform(0.0, 0.15))


def _shaded(batch: _Batch) -> Tensor:
    return distort.shade(batch.images, across=0.9 * batch.sign(), down=0.5 * batch.sign())


def _slanted(batch: _Batch) -> Tensor:
    return batch.warp(slant=20)


def _rotated(batch: _Batch) -> Tensor:
    return batch.warp(angle=20)


def _shifted(batch: _Batch) -> Tensor:
    return batch.warp(shift=3.5)


def _small(batch: _Batch) -> Tensor:
    return batch.warp(zoom=0.75)


def _large(batch: _Batch) -> Tensor:
    return batch.warp(zoom=1.2)


def _wavy(batch: _Batch) -> Tensor:
    return batch.warp(bend=0.8)


def _blurred(batch: _Batch) -> Tensor:
    return distort.blur(distort.blur(batch.images, batch.constant(1)), batch.constant(1))


def _noisy(batch: _Batch) -> Tensor:
    return distort.add_noise(batch.images, 0.2 * batch.normal(*batch.images.shape))


CORRUPTIONS: Mapping[str, Callable[[_Batch], Tensor]] = {
    corruption.__name__.removeprefix("_"): corruption
    for corruption in (
        _thin,
        _thick,
        _faint,
        _shaded,
        _slanted,
        _rotated,
        _shifted,
        _small,
        _large,
        _wavy,
        _blurred,
        _noisy,
    )
}
"""The corruptions by name. Amounts were chosen so that a person still reads the digit."""


def corrupted(split: Split, name: str) -> Split:
    """Returns the split with each image corrupted, the same at every call.

    Args:
        split: Images in main memory.
        name: A key of `CORRUPTIONS`.
    """
    # The seed includes the name's place, so that corruptions do not share their random directions.
    generator = torch.Generator().manual_seed(_SEED + list(CORRUPTIONS).index(name))
    images = CORRUPTIONS[name](_Batch(split.pixels.to(torch.float32) / 255, generator))
    return Split((images * 255).round().clamp(0, 255).to(torch.uint8), split.labels)
