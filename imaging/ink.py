"""From colours to ink: the paper's brightness taken away, whichever of the two is the lighter.

Where the paper is one colour, the picture's rim says which. Elsewhere ink is what is narrower than a window: paper is
the picture's closing (its opening, for light ink), which follows shadows and the edges of sheets, and differs from the
picture in strokes alone. Or paper is a surface under falling light, however wide the strokes. How wide a stroke is
cannot be known before, and neither can which of the two is the lighter: several ways are tried, and what can be read
decides, see `imaging.reader`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imaging.decode import Colours

Map = npt.NDArray[np.float32]
"""float32 [height, width]."""

Tone = npt.NDArray[np.uint8]
"""uint8 [height, width]: the colours along the one direction in which ink differs most from paper."""

# What no stroke is as wide as, in parts of the longer side; the last is the whole picture, so that paper is one tone.
_WINDOWS = (0.06, 0.2, 2.0)

# Of 255: what the rim of a drawing or a screenshot, and its paper, may differ from one colour.
_FLATNESS = 12

# Of 255: shadows are not lightened further, or else their grain would be ink.
_DARKEST = 80

# Rounds in which the surface of plain paper settles, and the weight of pixels on the ink's side of it.
_ROUNDS, _BELOW = 12, 0.03

# Longer side at which colours are compared.
_SMALL_SIDE = 160


@dataclass(frozen=True, kw_only=True, eq=False)
class Ink:
    """One way of telling ink from paper.

    Attributes:
        amount: float32 [height, width]: 0 is paper, 1 the strongest contrast possible.
        noise: Standard deviation of `amount` on paper.
        light: Whether the ink is lighter than the paper.
        expected: Whether that is what stands out more.
        window: What no stroke is as wide as, in parts of the longer side; None where that need not be asked.
        tone: uint8 [height, width]: what the ink was found in.
        blur: Pixels that the picture's sharpest edges take from one side to the other.
    """

    amount: Map
    noise: float
    light: bool
    expected: bool
    window: float | None
    tone: Tone
    blur: float


def inks(colours: Colours, *, sheet: bool) -> Iterator[Ink]:
    """The ways that are worth trying.

    Args:
        colours: uint8 [height, width, 3].
        sheet: Whether there may be a sheet in the picture, so that its rim need not be paper.
    """
    small = _shrunk(colours)
    rim = _rim(colours)
    shade = np.median(rim, axis=0)
    axis = _axis(small, shade)
    tone = _projected(colours, axis)
    if max(tone.shape) > 400:
        tone = np.asarray(cv2.GaussianBlur(tone, (0, 0), 0.8), np.uint8)
    blur = _blur(tone)
    light = _skewness(_projected(small, axis)) > 0
    if _distance(rim, shade) > 0.97 and _distance(small, shade) > 0.4:
        paper = np.full_like(tone, np.median(_projected(rim[None], axis)))
        for way in (light, not light):
            yield _ink(tone, paper, light=way, expected=way == light, window=None, blur=blur)
        if not sheet:
            return
    for window in _WINDOWS if max(tone.shape) > 40 else _WINDOWS[-1:]:
        for way in (light, not light):
            paper = _paper(tone, window, light=way)
            yield _ink(tone, paper, light=way, expected=way == light, window=window, blur=blur)


def _shrunk(colours: Colours) -> Colours:
    height, width = colours.shape[:2]
    share = min(1.0, _SMALL_SIDE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_AREA), np.uint8)


def _rim(colours: Colours) -> Colours:
    """Pixels along the four sides, uint8 [N, 3]."""
    width = max(1, min(colours.shape[:2]) // 50)
    sides = colours[:width], colours[-width:], colours[:, :width], colours[:, -width:]
    return np.concatenate([side.reshape(-1, 3) for side in sides])


def _distance(colours: Colours, shade: npt.NDArray[np.float64]) -> float:
    """The share of pixels, uint8 [..., 3], that have about one colour."""
    return float((np.abs(colours - shade).max(axis=-1) <= _FLATNESS).mean())


def _axis(small: Colours, shade: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The direction of colour in which ink differs most from paper, towards lighter: weights that sum to 1 at most."""
    side = max(3, round(0.25 * max(small.shape))) | 1
    paper = cv2.medianBlur(small, side) if min(small.shape[:2]) > 16 else np.broadcast_to(shade, small.shape)
    rows = (small.astype(np.float64) - paper).reshape(-1, 3)
    axis = np.linalg.eigh(rows.T @ rows).eigenvectors[:, -1]
    axis = axis if axis.sum() >= 0 else -axis
    if axis.sum() > 0.9 * 3**0.5:
        axis = np.ones(3)
    weights: npt.NDArray[np.float32] = (axis / np.abs(axis).sum()).astype(np.float32)
    return weights


def _projected(colours: Colours, axis: npt.NDArray[np.float32]) -> Tone:
    """The tone along an axis, its range that of eight bits whatever the axis."""
    lowest = 255 * float(np.minimum(axis, 0).sum())
    return np.asarray(cv2.transform(colours, np.array([[*axis, -lowest]], np.float32)), np.uint8)


def _skewness(tone: Tone) -> float:
    """Positive where light strokes stand out more than dark ones, from -2 to 2.

    Two votes: what differs from the median around it, which sees a stroke's whole outside as paper, and what a window
    closes or opens, for which the edges of shadows do not count.
    """
    side = max(3, round(0.25 * max(tone.shape))) | 1
    difference = tone.astype(np.float64) - cv2.medianBlur(tone, side)
    opened, closed = (cv2.absdiff(tone, _paper(tone, 0.1, light=light)).astype(np.float64) for light in (True, False))
    return _balance(difference.clip(0), (-difference).clip(0)) + _balance(opened, closed)


def _balance(light: npt.NDArray[np.float64], dark: npt.NDArray[np.float64]) -> float:
    """Which has the more of the large values, -1 to 1."""
    for_light, for_dark = float((light**3).sum()), float((dark**3).sum())
    return (for_light - for_dark) / max(for_light + for_dark, 1e-9)


def _paper(tone: Tone, window: float, *, light: bool) -> Tone:
    if window > 1:
        return _plain(tone, light=light)
    side = max(3, round(window * max(tone.shape))) | 1
    square = np.ones((side, side), np.uint8)
    return np.asarray(cv2.morphologyEx(tone, cv2.MORPH_OPEN if light else cv2.MORPH_CLOSE, square), np.uint8)


def _plain(tone: Tone, *, light: bool) -> Tone:
    """Paper of one colour under light that falls off gently: the quadratic surface that most of the picture is at."""
    height, width = tone.shape
    share = min(1.0, _SMALL_SIDE / 2 / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = cv2.resize(tone, size, interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    terms = _quadratic(*size)
    weights = np.ones_like(small)
    for _ in range(_ROUNDS):
        weighted = terms * weights[:, None]
        factors = np.linalg.lstsq(weighted.T @ terms, weighted.T @ small, rcond=None)[0]
        above = (small - terms @ factors) * (-1 if light else 1)
        weights = np.where(above > 0, 1.0, _BELOW)
    surface = (terms @ factors).clip(0, 255).reshape(size[::-1]).astype(np.float32)
    return np.rint(cv2.resize(surface, (width, height), interpolation=cv2.INTER_LINEAR)).astype(np.uint8)


def _quadratic(width: int, height: int) -> npt.NDArray[np.float64]:
    y, x = (each.ravel() for each in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _blur(tone: Tone) -> float:
    """Pixels that the sharpest edges take: the largest differences over some distance by those over a pixel."""
    side = max(3, max(tone.shape) // 12) | 1
    square = np.ones((side, side), np.uint8)
    smooth = cv2.GaussianBlur(tone, (0, 0), 1.0)
    far = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, square)
    near = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return 2 * float(np.percentile(far, 99.5)) / max(float(np.percentile(near, 99.5)), 1.0)


def _ink(tone: Tone, paper: Tone, *, light: bool, expected: bool, window: float | None, blur: float) -> Ink:
    difference = cv2.subtract(tone, paper, dtype=cv2.CV_32F) if light else cv2.subtract(paper, tone, dtype=cv2.CV_32F)
    # In a shadow both are darker, and so is what tells them apart.
    room = np.maximum(np.maximum(paper, 255 - paper) if light else paper, _DARKEST).astype(np.float32)
    amount = difference / room
    noise = min(_noise(amount), 0.1 * float(amount.max()))
    # Noise has lifted the closing; where most is ink, its median says nothing of paper.
    middle = float(np.median(amount[::4, ::4]))
    amount -= np.float32(min(max(middle, 0), 3 * noise, 0.05))
    return Ink(
        amount=np.maximum(amount, 0), noise=noise, light=light, expected=expected, window=window, tone=tone, blur=blur
    )


def _noise(amount: Map) -> float:
    """Standard deviation of paper's grain: from differences over a distance, few of which span a stroke's edge."""
    distance = max(1, max(amount.shape) // 100)
    differences = np.abs(amount[:, distance:] - amount[:, :-distance])[::3, ::3]
    return 1.4826 / 2**0.5 * float(np.median(differences)) if differences.size else 0.0
