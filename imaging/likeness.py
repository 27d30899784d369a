"""How much a shape is like a digit, whichever: by its distance to what MNIST's digits have in common.

Each digit's training images, blurred so that the stroke's width hardly matters, lie close to a subspace of few
dimensions. The likeness of an image is the largest share of it (of its sum of squares) that one of the ten subspaces
holds: 1 is wholly inside. Of MNIST's test images 99.4 % have at least USUAL; two digits side by side, scribble and
noise have 0.3 to 0.75, but letters mostly as much as digits. `python -m imaging.fit` wrote the subspaces.

What is no writing at all, such as a part of a photograph, may lie in a subspace by chance: blurred, a thicket of
branches is an 8. It is told by its holes and blobs.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

SUBSPACES = Path(__file__).with_name("likeness.npz")

USUAL = 0.78

# Of MNIST's test images 99.85 % have no more holes, of at least so many pixels, and no stroke of a greater half-width.
_HOLES, _HOLE_PIXELS, _HALF_WIDTH = 3, 2, 5.0
_INK = 100


def likeness(images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """float32 [N], 0 to 1, of N images uint8 [28, 28]; 0 for a black one."""
    if not len(images):
        return np.zeros(0, np.float32)
    shares = (features(images) @ _subspaces()) ** 2  # [10, N, dimensions]
    return np.asarray(shares.sum(axis=2).max(axis=0), np.float32)


def is_drawn(image: npt.NDArray[np.uint8]) -> bool:
    """Whether a pen may have drawn an image, uint8 [28, 28]: it is made of strokes, which enclose little."""
    ink = np.pad((image > _INK).astype(np.uint8), 1)
    _, _, areas, _ = cv2.connectedComponentsWithStats(1 - ink, connectivity=4)
    holes = np.count_nonzero(areas[1:, cv2.CC_STAT_AREA] >= _HOLE_PIXELS) - 1  # the ground around it is none
    return bool(holes <= _HOLES and cv2.distanceTransform(ink, cv2.DIST_L2, 3).max() <= _HALF_WIDTH)


def features(images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Blurred, at half the resolution, of length 1: float32 [N, 196]."""
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), 1.0)[::2, ::2] for image in images])
    rows = blurred.reshape(len(images), -1).astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


@functools.cache
def _subspaces() -> npt.NDArray[np.float32]:
    """Orthonormal columns, float32 [10, 196, dimensions]."""
    with np.load(SUBSPACES, allow_pickle=False) as file:
        return np.asarray(file["subspaces"], np.float32)
