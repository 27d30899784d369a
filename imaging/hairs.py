"""Lines far thinner than the strokes that they touch: what was left of ruling, boxes and threads beside a thick pen."""

import cv2
import numpy as np
import numpy.typing as npt

from imaging.normalise import stroke_width
from imaging.segment import Mask

# Of the strokes' mean width: a hair is thinner, and of one that is taken away so much is left where it met a stroke.
_THIN = 0.45
_STUB = 0.5

# Of the ink: less than this is no more than the roughness of a stroke's edges.
_LEAST = 0.05


def without_hairs(mask: Mask) -> Mask | None:
    """A region's ink, bool [height, width], without hairs; None where there are none to speak of."""
    width = stroke_width(mask)
    thin, stub = round(_THIN * width) | 1, round(_STUB * width)
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), thin, thin, thin, thin, cv2.BORDER_CONSTANT)
    thick = cv2.morphologyEx(framed, cv2.MORPH_OPEN, _disc(thin))[thin:-thin, thin:-thin]
    left = mask & (cv2.dilate(thick, _disc(2 * stub + 1)) > 0)
    return left if 0 < left.sum() < (1 - _LEAST) * mask.sum() else None


def _disc(side: int) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
