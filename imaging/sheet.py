"""Where the paper lies, if a picture shows its edges: what is beside it is no ink."""

import cv2
import numpy as np

from imaging.decode import Colours
from imaging.segment import Mask

_SMALL_SIDE = 160

# In parts of the picture and of the smallest rectangle around it: what is smaller or less like a rectangle is no sheet.
_LEAST_AREA = 0.12
_LEAST_FILL = 0.85

# Of the picture's rim: a sheet that covers more is not surrounded.
_MOST_RIM = 0.3


def sheet(colours: Colours) -> Mask | None:
    """The sheet, a little less of it, as bool [height, width]; None where none stands out from what is around it."""
    height, width = colours.shape[:2]
    share = min(1.0, _SMALL_SIDE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = cv2.GaussianBlur(cv2.resize(colours, size, interpolation=cv2.INTER_AREA), (0, 0), 1.5)
    rim = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    distance = np.abs(small.astype(np.float32) - np.median(rim, axis=0)).max(axis=2).astype(np.uint8)
    _, differs = cv2.threshold(distance, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(differs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(outlines, key=cv2.contourArea, default=None)
    if outline is None or cv2.contourArea(outline) < _LEAST_AREA * differs.size:
        return None
    filled = cv2.drawContours(np.zeros_like(differs), [outline], -1, 1, cv2.FILLED)
    if float(np.concatenate([filled[0], filled[-1], filled[:, 0], filled[:, -1]]).mean()) > _MOST_RIM:
        return None
    (_, _), (long, short), _ = cv2.minAreaRect(outline)
    if cv2.contourArea(outline) < _LEAST_FILL * long * short:
        return None
    mask = cv2.drawContours(np.zeros_like(differs), [cv2.convexHull(outline)], -1, 1, cv2.FILLED)
    mask = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0
