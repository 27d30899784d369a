"""Lines far thinner than the strokes that they touch: what was left of ruling, boxes and threads beside a thick pen."""

import cv2
import numpy as np

from imaging.normalise import stroke_width
from imaging.segment import Mask

# Of the strokes' mean width: a hair is no wider, and of one that is taken away so much is left where it met a stroke.
_THIN = 0.35
_STUB = 0.5

# Of the ink: less than this is no more than the roughness of a stroke's edges.
_LEAST = 0.05


def without_hairs(mask: Mask) -> Mask | None:
    """A region's ink, bool [height, width], without hairs; None where there are none to speak of."""
    width = stroke_width(mask)
    radius = _THIN / 2 * width
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    core = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_5) > radius
    away = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    left = mask & (away <= radius + _STUB * width)
    return left if 0 < left.sum() < (1 - _LEAST) * mask.sum() else None
