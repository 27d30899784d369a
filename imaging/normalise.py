"""From a region to MNIST's layout: strokes of its width, 20 pixels on the longer side, centred by mass in 28 x 28."""

import cv2
import numpy as np
import numpy.typing as npt

from imaging.ink import Map
from imaging.segment import Mask

Pixels = npt.NDArray[np.uint8]

SIDE = 28
_LONGER_SIDE = 20

# What of a stroke's strength is its soft edge; MNIST's strokes are full ink between soft edges.
_SOFT = 0.2, 0.7

# Resolution at which strokes are widened or thinned.
_OVERSAMPLING = 8

# Widths of strokes of most MNIST digits, in pixels of the result.
_THIN, _THICK = 2.4, 4.4


def normalise(amount: Map, mask: Mask) -> Pixels:
    """uint8 [28, 28], white on black, from the ink of one region, float32 [height, width], and where it is."""
    reach = max(1, max(mask.shape) // 40)
    around = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    ink = np.where(around > 0, amount, 0).astype(np.float32)
    ink /= max(float(np.percentile(amount[mask], 90)), 1e-6)
    ink = _cropped(np.minimum(ink, 1))
    if not 18 <= max(ink.shape) <= 22:
        ink = _resized(ink)
    return _centred(_stretched(ink))


def _cropped(ink: Map) -> Map:
    seen = ink > 0.15
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(ink: Map) -> Map:
    """At MNIST's size, strokes too thin widened and strokes too thick thinned before they are shrunk."""
    high = _LONGER_SIDE * _OVERSAMPLING
    factor = max(ink.shape) / high
    if factor > 1:
        # Strokes thinner than a pixel of the next step would fade.
        side = int(factor)
        ink = np.asarray(cv2.dilate(ink, np.ones((side, side), np.uint8)), np.float32)
    interpolation = cv2.INTER_AREA if factor > 1 else cv2.INTER_CUBIC
    large = np.asarray(cv2.resize(ink, _size(ink, high), interpolation=interpolation), np.float32).clip(0, 1)
    large = ((large - _SOFT[0]) / (_SOFT[1] - _SOFT[0])).clip(0, 1)
    width = stroke_width(large > 0.5) / _OVERSAMPLING
    if width < _THIN:
        large = _widened(large, (_THIN - width) * _OVERSAMPLING)
    elif width > _THICK:
        large = 1 - _widened(1 - large, (width - _THICK) * _OVERSAMPLING)
    return np.asarray(cv2.resize(large, _size(large, _LONGER_SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _size(ink: Map, longer: int) -> tuple[int, int]:
    height, width = ink.shape
    factor = longer / max(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def stroke_width(mask: Mask) -> float:
    """Mean width of the strokes in pixels: a bar's pixels are a quarter of its width from its edge, on average."""
    if not mask.any():
        return 0.0
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 3)
    return 4 * (float(distance[framed > 0].mean()) - 0.5)


def _widened(ink: Map, by: float) -> Map:
    side = round(by) | 1
    pad = side // 2
    framed = cv2.copyMakeBorder(ink, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(framed, disc), np.float32)[pad : pad + ink.shape[0], pad : pad + ink.shape[1]]


def _stretched(ink: Map) -> Map:
    """The strongest ink is white."""
    return np.asarray(np.minimum(ink / max(float(ink.max()), 1e-6), 1), np.float32)


def _centred(ink: Map) -> Pixels:
    height, width = ink.shape
    total = float(ink.sum())
    row = float(ink.sum(axis=1) @ np.arange(height)) / total
    column = float(ink.sum(axis=0) @ np.arange(width)) / total
    top = min(max(round(SIDE / 2 - row), 0), SIDE - height)
    left = min(max(round(SIDE / 2 - column), 0), SIDE - width)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[top : top + height, left : left + width] = np.rint(255 * ink)
    return pixels
