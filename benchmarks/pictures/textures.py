"""What surfaces and sensors add: noise of every grain."""

import cv2
import numpy as np

from benchmarks.pictures.strokes import Floats

# Fine noise is repeated after so many pixels: nobody sees it, and it takes a fraction of the time.
_TILE = 384
_FINE = 5.0

# Coarse noise is drawn this much smaller.
_REDUCED = 4


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, cell_y: float | None = None) -> Floats:
    """Noise [height, width] of mean 0 and deviation of about 1, in grains of that many pixels.

    Args:
        rng: Where the randomness comes from.
        shape: Height and width.
        cell: Width of a grain.
        cell_y: Its height, where it is not the same.
    """
    cell, cell_y = max(1.0, cell), max(1.0, cell if cell_y is None else cell_y)
    height, width = shape
    if max(cell, cell_y) < _FINE:
        side = min(_TILE, max(shape))
        tile = _grains(rng, (side, side), cell, cell_y)
        return np.tile(tile, (height // side + 1, width // side + 1))[:height, :width]
    if min(cell, cell_y) < _FINE:
        return _grains(rng, shape, cell, cell_y)
    small = _grains(rng, (height // _REDUCED + 2, width // _REDUCED + 2), cell / _REDUCED, cell_y / _REDUCED)
    return np.asarray(cv2.resize(small, None, fx=_REDUCED, fy=_REDUCED)[:height, :width], np.float32)


def _grains(rng: np.random.Generator, shape: tuple[int, int], cell: float, cell_y: float) -> Floats:
    if max(cell, cell_y) < 1.5:
        return rng.standard_normal(shape, dtype=np.float32)
    height, width = shape
    grid = rng.standard_normal((int(height / cell_y) + 2, int(width / cell) + 2), dtype=np.float32)
    # Enlarging takes away some of the deviation.
    full = cv2.resize(grid, None, fx=cell, fy=cell_y, interpolation=cv2.INTER_CUBIC)
    return np.asarray(full[:height, :width], np.float32) * np.float32(1.2)


def fractal(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int) -> Floats:
    """Noise [height, width] of several grains, the largest of `cell` pixels, each half as large and as strong."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += noise(rng, shape, cell / 2**octave) * np.float32(0.5**octave)
    return total
