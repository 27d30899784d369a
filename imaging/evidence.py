"""What speaks for a region being the digit that a picture was taken of: a product of plain measures, each 0 to 1.

Every one stands for something that photographs hold besides: shadows change on one side only, sheets and table tops
are thicker than strokes, ruling is straight and thin, a box holds others, and dust is small.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from imaging.ink import Ink
from imaging.segment import Mask, Region

# Where each measure begins and ends to speak for a digit: its value at 0, and at 1.
_LIKENESS = (0.3, 1.0)
_SUPPORT = (0.6, 0.95)
_THICKNESS = (0.53, 0.33)
_OPENING = (0.8, 0.35)
_CONTRAST = (0.0, 0.5)

# In parts of the picture's longer side: from here on larger regions are no likelier.
_SIZE = 0.25

# Longer side in pixels up to which a picture may be blurred because it was smaller once.
_ENLARGED = 400

_NOT_EXPECTED = 0.8
_TOUCHES_THE_RIM = 0.7
_HOLDS_ANOTHER = 0.4
_ONE_TONE = 0.75
_TOO_WIDE = 0.3

# Of its height: wider than this is no digit.
WIDEST = 1.7


def evidence(
    ink: Ink, labels: npt.NDArray[np.int32], region: Region, mask: Mask, contrast: float, like: float
) -> float:
    """How much speaks for a region, 0 to 1.

    Args:
        ink: What the region was found in.
        labels: int32 [height, width] of its connected parts.
        region: The region.
        mask: Its own ink, bool [height, width] of its rectangle.
        contrast: The median amount of its ink.
        like: Its likeness to a digit.
    """
    side = max(labels.shape)
    thickness = _thickness(mask)
    opening = 0.0 if ink.window is None else thickness / (ink.window * side)
    across = abs((region.left + region.right) / 2 / labels.shape[1] - 0.5)
    down = abs((region.top + region.bottom) / 2 / labels.shape[0] - 0.5)
    return float(
        of_shape(like, region.width, region.height)
        * of_size(region.size / side)
        * _ramp(contrast, _CONTRAST) ** 0.5
        * min(1.0, contrast / max(12 * ink.noise, 0.09))
        * max(0.03, _ramp(_support(ink, labels, region, contrast), _SUPPORT))
        * max(0.05, _ramp(thickness / region.size, _THICKNESS))
        * max(0.2, _ramp(opening, _OPENING))
        * (1 if _fills(labels, region) else _rim(labels, region))
        * _slenderness(mask)
        * (1 - 0.5 * float(np.hypot(across, down)))
        * (1 if ink.expected else _NOT_EXPECTED)
        * (_ONE_TONE if ink.window is not None and ink.window > 1 and not _fills(labels, region) else 1)
    )


def of_shape(like: float, width: int, height: int) -> float:
    """What speaks for a region for its likeness to a digit and its proportions."""
    return _ramp(like, _LIKENESS) ** 2 * (_TOO_WIDE if width > WIDEST * height else 1)


def of_size(share: float) -> float:
    """What speaks for a region for being so large, in parts of the picture's longer side."""
    return float(min(1.0, share / _SIZE) ** 0.7)


def with_holders(regions: Sequence[Region], scores: Sequence[float], contrasts: Sequence[float]) -> list[float]:
    """Scores, lower for regions that hold another one: boxes, and the edges of sheets."""
    return [
        score * (_HOLDS_ANOTHER if any(
            other.inside(region) and other.size > 0.2 * region.size and their > 0.5 * contrast
            for other, their in zip(regions, contrasts, strict=True)
        ) else 1)
        for region, score, contrast in zip(regions, scores, contrasts, strict=True)
    ]  # fmt: skip


def _fills(labels: npt.NDArray[np.int32], region: Region) -> bool:
    """Whether the picture was cut out around the region: no wonder then that it touches the rim."""
    height, width = labels.shape
    return bool(region.height >= 0.9 * height and region.width >= 0.9 * width)


def _ramp(value: float, ends: tuple[float, float]) -> float:
    return min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))


def _thickness(mask: Mask) -> float:
    """Of the thickest stroke, in pixels."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return 2 * float(cv2.distanceTransform(framed, cv2.DIST_L2, 3).max())


def _slenderness(mask: Mask) -> float:
    """Lower for what is as thin and straight as a printed line."""
    outline = cv2.findNonZero(mask.astype(np.uint8))
    (_, _), (width, height), _ = cv2.minAreaRect(cv2.convexHull(outline))
    ratio = (min(width, height) + 1) / (max(width, height) + 1)
    return 0.2 if ratio < 0.06 else 0.6 if ratio < 0.12 else 1.0


def _rim(labels: npt.NDArray[np.int32], region: Region) -> float:
    """Lower the more of the region's extent lies on the picture's rim."""
    height, width = labels.shape
    rims = (
        labels[0, region.left : region.right] if region.top == 0 else labels[:0, 0],
        labels[-1, region.left : region.right] if region.bottom == height else labels[:0, 0],
        labels[region.top : region.bottom, 0] if region.left == 0 else labels[:0, 0],
        labels[region.top : region.bottom, -1] if region.right == width else labels[:0, 0],
    )
    contact = sum(int(np.isin(rim, region.parts).sum()) for rim in rims) / (region.width + region.height)
    return max(0.3, 1 - contact) * (_TOUCHES_THE_RIM if contact else 1)


def _support(ink: Ink, labels: npt.NDArray[np.int32], region: Region, contrast: float) -> float:
    """The share of a region's outline across which the picture itself changes.

    Where a shadow ends, or where the window cut something, there is an outline with nothing to see at it.
    """
    # On photographs ink ends sharply, and the shadow of a sheet does not; small pictures may have been enlarged.
    side = max(labels.shape)
    reach = 1 + (region.size // 20 if side <= _ENLARGED else min(region.size // 20, max(side // 200, round(ink.blur))))
    margin = 3 * reach + 1
    rows = np.arange(region.top - margin, region.bottom + margin)
    columns = np.arange(region.left - margin, region.right + margin)
    height, width = labels.shape
    outside = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))[None]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    grid = np.ix_(rows, columns)
    mask = (np.isin(labels[grid], region.parts) & ~outside).astype(np.uint8)
    tone = ink.tone[grid] if ink.light else 255 - ink.tone[grid]
    wide = np.ones((4 * reach + 1, 4 * reach + 1), np.uint8)
    ring = cv2.dilate(mask, wide) > cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    inside = cv2.dilate(tone * mask, wide)
    if not ring.any():
        return 0.0
    return float((inside[ring].astype(np.float32) - tone[ring] > 64 * contrast).mean())
