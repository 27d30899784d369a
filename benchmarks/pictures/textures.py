"""What surfaces and sensors add: noise of every grain."""

import cv2
import numpy as np

from benchmarks.pictures.strokes import Floats

# Noise of single pixels is repeated after so many: nobody sees it, and it takes a tenth of the time.
_TILE = 384


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, cell_y: float | None = None) -> Floats:
    """Noise [height, width] of mean 0 and deviation of about 1, in grains of that many pixels.

    Args:
        rng: Where the randomness comes from.
        shape: Height and width.
        cell: Width of a grain.
        cell_y: Its height, where it is not the same.
    """
    height, width = shape
    cell_y = max(1.0, cell if cell_y is None else cell_y)
    cell = max(1.0, cell)
    if max(cell, cell_y) < 1.5:
        side = min(_TILE, max(shape))
        tile = rng.standard_normal((side, side), dtype=np.float32)
        return np.tile(tile, (height // side + 1, width // side + 1))[:height, :width]
    grid = rng.standard_normal((int(height / cell_y) + 4, int(width / cell) + 4), dtype=np.float32)
    scale = np.array([[cell, 0, -1.5 * cell], [0, cell_y, -1.5 * cell_y]])
    return np.asarray(cv2.warpAffine(grid, scale, (width, height), flags=cv2.INTER_CUBIC), np.float32) * np.float32(1.4)


def fractal(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int) -> Floats:
    """Noise [height, width] of several grains, the largest of `cell` pixels, each half as large and as strong."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += noise(rng, shape, cell / 2**octave) * np.float32(0.5**octave)
    return total
