"""Straight thin lines in a picture's strokes, printed or written."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from imaging.ink import Map
from imaging.segment import Mask

Point = npt.NDArray[np.float64]
"""float64 [..., 2], x and y."""

# Longer side in pixels at which lines are looked for.
_LOOKED_AT = 400

# Of the longer side: the shortest line, and the widest one.
_SHORTEST = 0.04
_WIDEST = 0.05

# How far apart pieces of one line may be, of the longer side, and how much of its length is then ink: it takes a
# stroke that crosses to part them further.
_GAPS = (0.35, 0.75), (0.12, 0.55)

# Of its length: a line is no wider.
_SLENDER = 0.1

# How much of a line where no stroke crosses is of one width, and of all its length.
_EVEN = 0.6
_LEAST = 0.3

# Lines that are looked at, the longest ones.
_MOST = 300

# Of a line's length: how much of it a stroke may hide at an end.
_HIDDEN = 0.35

_PARALLEL = np.cos(np.radians(3.0))

# Bits behind the point of a place in the picture, where whole numbers stand for it.
_FRACTION = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A straight line of ink.

    Attributes:
        start: x and y of one end, float [2].
        stop: The same of the other.
        width: In pixels.
        strength: Of its ink, 0 to 1.
    """

    start: npt.NDArray[np.float64]
    stop: npt.NDArray[np.float64]
    width: float
    strength: float

    @cached_property
    def length(self) -> float:
        """In pixels."""
        return float(np.hypot(*(self.stop - self.start)))

    @cached_property
    def direction(self) -> npt.NDArray[np.float64]:
        """Of length 1."""
        return (self.stop - self.start) / max(self.length, 1e-9)


def straight_lines(mask: Mask, amount: Map) -> list[Line]:
    """Straight thin lines, the longest first.

    Args:
        mask: Where there is ink.
        amount: How much of it.
    """
    side = max(mask.shape)
    detector = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD, scale=min(max(_LOOKED_AT / side, 0.6), 2.0))
    # Where a line is about as strong as the threshold, its soft sides are straighter than the mask's.
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    soft = np.minimum(amount / max(float(np.median(amount[mask])), 1e-6), 1.0) * near
    found = detector.detect(np.rint(255 * soft).astype(np.uint8))[0]
    if found is None:
        return []
    ends = np.asarray(found, np.float64).reshape(-1, 2, 2)
    lengths = np.hypot(*(ends[:, 1] - ends[:, 0]).T)
    order = np.argsort(-lengths)
    order = order[lengths[order] > max(6, 0.02 * side)][:1000]
    ends, lengths = ends[order], lengths[order]
    directions = (ends[:, 1] - ends[:, 0]) / lengths[:, None]
    free = np.ones(len(ends), bool)
    lines: list[Line] = []
    for index in range(len(ends)):
        if not free[index] or len(lines) >= _MOST or lengths[index] < 0.3 * _SHORTEST * side:
            continue
        along = directions[index]
        across = np.array([-along[1], along[0]])
        origin = ends[index].mean(axis=0)
        offset = (ends - origin) @ across
        near = free & (np.abs(directions @ along) > _PARALLEL) & (np.abs(offset).max(axis=1) < max(3.0, 0.012 * side))
        free[index] = False
        spans = np.sort((ends[near] - origin) @ along, axis=1)
        members = np.flatnonzero(near)
        for gap, covered in _GAPS:
            taken, start, stop = _joined(spans, (ends[index] - origin) @ along, gap * side)
            if stop - start < _SHORTEST * side:
                continue
            chosen = ends[members[taken]].reshape(-1, 2)
            centre, fitted = _fitted(chosen, along)
            reach = (chosen - centre) @ fitted
            line = _measured(mask, amount, centre + reach.min() * fitted, centre + reach.max() * fitted, covered)
            if line is not None:
                free &= ~_along(ends, line)
                lines.append(line)
                break
    return lines


def _along(ends: npt.NDArray[np.float64], line: Line) -> npt.NDArray[np.bool_]:
    """Which segments, float [N, 2, 2], are a line's own sides."""
    along, across = seen_from(line, ends)
    inside = (along > -line.width) & (along < line.length + line.width) & (np.abs(across) < line.width / 2 + 2.5)
    return np.asarray(inside.all(axis=1))


def seen_from(line: Line, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far along a line points, float [..., 2], lie from its start, and how far across from it."""
    moved, (x, y) = points - line.start, line.direction
    return moved @ (x, y), moved @ (-y, x)


def _joined(
    spans: npt.NDArray[np.float64], seed: npt.NDArray[np.float64], gap: float
) -> tuple[npt.NDArray[np.bool_], float, float]:
    """Which of the spans of one straight line can be reached from one of them over small gaps, and their ends."""
    start, stop = float(seed.min()), float(seed.max())
    while True:
        taken = (spans[:, 0] <= stop + gap) & (spans[:, 1] >= start - gap)
        lowest, highest = min(start, float(spans[taken, 0].min())), max(stop, float(spans[taken, 1].max()))
        if (lowest, highest) == (start, stop):
            return taken, start, stop
        start, stop = lowest, highest


def _fitted(
    points: npt.NDArray[np.float64], along: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A point of the line through points, and its direction."""
    centre = points.mean(axis=0)
    moved = points - centre
    direction = np.linalg.eigh(moved.T @ moved).eigenvectors[:, -1]
    return centre, direction if direction @ along >= 0 else -direction


def strip(
    mask: Mask, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], reach: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Mask]:
    """Rows, columns and ink of the picture across a line, a pixel's length after the other: [length, 2 reach + 1]."""
    distance = float(np.hypot(*(stop - start)))
    middle = start + np.linspace(0, 1, max(2, int(distance)))[:, None] * (stop - start)
    along = (stop - start) / max(distance, 1e-9)
    offsets = np.arange(-reach, reach + 1)
    columns = _fixed(middle[:, :1] + 0.5) - _fixed(offsets * along[1]) >> _FRACTION
    rows = _fixed(middle[:, 1:] + 0.5) + _fixed(offsets * along[0]) >> _FRACTION
    height, width = mask.shape
    at = rows.clip(0, height - 1), columns.clip(0, width - 1)
    ink = mask.take(at[0] * np.int32(width) + at[1])
    return *at, ink & (at[0] == rows) & (at[1] == columns)


def _fixed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Whole numbers, which are added and rounded several times as fast."""
    return np.asarray(np.rint(values * (1 << _FRACTION)), np.int32)


def runs(ink: Mask, drift: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where across a line its ink begins and ends, at each step along it.

    Args:
        ink: As `strip` gives it, [length, 2 reach + 1].
        drift: How far from the middle the line may be.

    Returns:
        The first and the last offset of the ink nearest to the middle, from 0 to 2 reach; -1 and -2 where none is.
    """
    reach = ink.shape[1] // 2
    steps = np.arange(reach + 1)

    def on(side: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Steps from the middle to the nearest ink, and to the paper behind it."""
        nearest = np.where(side.any(axis=1), side.argmax(axis=1), reach + 1)
        filled = side | (steps < nearest[:, None])
        return nearest, np.where(filled.all(axis=1), reach + 1, filled.argmin(axis=1))

    (before, paper_before), (after, paper_after) = on(ink[:, reach::-1]), on(ink[:, reach:])
    first = np.where(before <= after, reach - paper_before + 1, reach + after)
    last = np.where((after < before) | (before == 0), reach + paper_after - 1, reach - before)
    there = np.minimum(before, after) <= min(drift, reach)
    return np.where(there, first, -1), np.where(there, last, -2)


def _measured(
    mask: Mask, amount: Map, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], covered: float
) -> Line | None:
    """The line with its width; None if it is none, or none of one width."""
    side = max(mask.shape)
    length = float(np.hypot(*(stop - start)))
    widest = min(_WIDEST * side, _SLENDER * length)
    rows, columns, ink = strip(mask, start, stop, int(widest) + 4)
    first, last = runs(ink, max(2, round(0.006 * side)))
    there = first >= 0
    if there.mean() < covered:
        return None
    widths = (last - first + 1)[there]
    width = float(np.median(widths))
    even = np.abs(widths - width) <= max(1.5, 0.35 * width)
    # Where strokes cross, or lie along it, that says nothing on the line.
    if width > widest or even.sum() < _EVEN * (widths < 2.5 * width).sum() or even.sum() < _LEAST * len(there):
        return None
    middle = (first + last)[there][even] / 2
    at = np.flatnonzero(there)[even], middle.astype(np.int64)
    # It may have been found by one of its sides.
    shift = (float(np.median(middle)) - ink.shape[1] // 2) * np.array([start[1] - stop[1], stop[0] - start[0]]) / length
    strength = float(np.median(amount[rows[at], columns[at]]))
    start, stop = start + shift, stop + shift
    return Line(start=_prolonged(mask, stop, start), stop=_prolonged(mask, start, stop), width=width, strength=strength)


def _prolonged(mask: Mask, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The end of a line that runs on under a stroke, which hid it."""
    far = stop + _HIDDEN * (stop - start)
    _, _, ink = strip(mask, stop, far, 1)
    paper = np.flatnonzero(~ink.any(axis=1))
    share = paper[0] / len(ink) if len(paper) else 1.0
    return np.asarray(stop + share * (far - stop), np.float64)
