"""Lines that were printed, not written: ruling, squares, boxes, and combs.

They are straight, of one thin width, and do not end freely as strokes do, but at each other or at the picture's rim.
Where a stroke crosses such a line it is wider there, and stays.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imaging.ink import Map
from imaging.segment import Mask

# Shorter pictures hold a digit and nothing else, or too few pixels to tell.
_LEAST_SIDE = 48

# Longer side in pixels at which lines are looked for.
_LOOKED_AT = 400

# Of the longer side: the shortest line, the widest one, how near ends meet.
_SHORTEST = 0.04
_WIDEST = 0.05
_NEAR = 0.02

# How far apart pieces of one line may be, of the longer side, and how much of its length is then ink: it takes a
# stroke that crosses to part them further.
_GAPS = (0.35, 0.75), (0.12, 0.55)

# Of its length: a line is no wider.
_SLENDER = 0.1

# How much of a line where no stroke crosses is of one width, and of all its length.
_EVEN = 0.6
_LEAST = 0.3

# How many others like it a line has beside it that ends freely at both ends, or at one.
_FAMILY = 8, 4

# Of the picture: a line with one free end is as long, or else it may be a stroke.
_LONG = 0.4

# Lines that are looked at, the longest ones.
_MOST = 300

# Of a line's length: how much of it a stroke may hide at an end.
_HIDDEN = 0.35

# Of a line's width: where it is all along as wide, a stroke lies on it.
_WIDER = 1.25

_PARALLEL = np.cos(np.radians(3.0))
_ACROSS = np.cos(np.radians(70.0))
# A line with one free end runs about level or upright, as pages are held; a stroke that ends at the rim may lean.
_LEVEL = np.cos(np.radians(20.0))
_ACROSS_RIM = np.sin(np.radians(30.0))
_ALONGSIDE = np.cos(np.radians(12.0))


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

    @property
    def length(self) -> float:
        """In pixels."""
        return float(np.hypot(*(self.stop - self.start)))

    @property
    def direction(self) -> npt.NDArray[np.float64]:
        """Of length 1."""
        return (self.stop - self.start) / max(self.length, 1e-9)


def without_ruling(mask: Mask, amount: Map) -> Mask:
    """The strokes but for what was printed; all of them if little else would be left.

    Args:
        mask: Where there is ink.
        amount: How much of it.
    """
    if min(mask.shape) < _LEAST_SIDE or not mask.any():
        return mask
    lines = _printed(_lines(mask, amount), mask.shape)
    left = mask.copy()
    for line in sorted(lines, key=lambda each: -each.length):
        _erase(left, line, lines)
    removed = int(mask.sum() - left.sum())
    return left if left.sum() > 0.01 * removed else mask


def _lines(mask: Mask, amount: Map) -> list[Line]:
    """Straight thin lines, the longest first."""
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
    along, across = _seen_from(line, ends)
    inside = (along > -line.width) & (along < line.length + line.width) & (np.abs(across) < line.width / 2 + 2.5)
    return np.asarray(inside.all(axis=1))


def _seen_from(line: Line, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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


def _strip(
    mask: Mask, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], reach: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Mask]:
    """Rows, columns and ink of the picture along a line: [2 reach + 1, length]."""
    length = max(2, int(np.hypot(*(stop - start))))
    steps = np.linspace(0, 1, length)
    middle = start[None] + steps[:, None] * (stop - start)[None]
    along = (stop - start) / max(float(np.hypot(*(stop - start))), 1e-9)
    offsets = np.arange(-reach, reach + 1)
    columns = np.rint(middle[None, :, 0] - offsets[:, None] * along[1]).astype(np.int64)
    rows = np.rint(middle[None, :, 1] + offsets[:, None] * along[0]).astype(np.int64)
    height, width = mask.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    return rows, columns, mask[rows, columns] & inside


def _runs(ink: Mask, drift: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last row of the ink nearest to the middle of each column, at most `drift` from it; -1 where none is."""
    reach = len(ink) // 2
    rows = np.arange(len(ink))[:, None]
    distance = np.where(ink, np.abs(rows - reach), len(ink))
    at = distance.argmin(axis=0)
    there = distance.min(axis=0) <= drift
    paper_above = np.where(~ink & (rows < at[None]), rows, -1).max(axis=0)
    paper_below = np.where(~ink & (rows > at[None]), rows, len(ink)).min(axis=0)
    return np.where(there, paper_above + 1, -1), np.where(there, paper_below - 1, -2)


def _measured(
    mask: Mask, amount: Map, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], covered: float
) -> Line | None:
    """The line with its width; None if it is none, or none of one width."""
    side = max(mask.shape)
    length = float(np.hypot(*(stop - start)))
    widest = min(_WIDEST * side, _SLENDER * length)
    rows, columns, ink = _strip(mask, start, stop, int(widest) + 4)
    first, last = _runs(ink, max(2, round(0.006 * side)))
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
    at = middle.astype(np.int64), np.flatnonzero(there)[even]
    # It may have been found by one of its sides.
    shift = (float(np.median(middle)) - len(ink) // 2) * np.array([start[1] - stop[1], stop[0] - start[0]]) / length
    strength = float(np.median(amount[rows[at], columns[at]]))
    start, stop = start + shift, stop + shift
    return Line(start=_prolonged(mask, stop, start), stop=_prolonged(mask, start, stop), width=width, strength=strength)


def _prolonged(mask: Mask, start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The end of a line that runs on under a stroke, which hid it."""
    far = stop + _HIDDEN * (stop - start)
    _, _, ink = _strip(mask, stop, far, 1)
    paper = np.flatnonzero(~ink.any(axis=0))
    share = paper[0] / ink.shape[1] if len(paper) else 1.0
    return np.asarray(stop + share * (far - stop), np.float64)


def _printed(lines: list[Line], shape: tuple[int, int]) -> list[Line]:
    """The lines that hold each other: without one, those that end at it may be strokes."""
    while True:
        firm = [line for line in lines if _ends(line, lines, shape) == 2]
        kept = [line for line in lines if line in firm or _is_printed(line, lines, firm, shape)]
        if len(kept) == len(lines):
            return kept
        lines = kept


def _is_printed(line: Line, lines: list[Line], firm: list[Line], shape: tuple[int, int]) -> bool:
    """Whether a line with a free end is printed none the less: two strokes of a seven hold each other as well."""
    if _in_family(line, lines, _FAMILY[_ends(line, lines, shape)]):
        return True
    level = np.abs(line.direction).max() > _LEVEL
    return bool(level) and line.length > _LONG * shape[1] and _ends(line, firm, shape) == 1


def _ends(line: Line, lines: list[Line], shape: tuple[int, int]) -> int:
    """How many of a line's ends lie at the rim or at another line that crosses its direction, 0 to 2."""
    height, width = shape
    near = min(_NEAR * max(shape), max(4.0, 0.1 * line.length))
    return sum(_ends_at(point, line, lines, near, (width, height)) for point in (line.start, line.stop))


def _ends_at(point: npt.NDArray[np.float64], line: Line, lines: list[Line], near: float, size: tuple[int, int]) -> bool:
    """Whether a line's end lies at the rim or at another line that crosses its direction."""
    rims = np.stack((point, np.array(size) - point)) <= near / 2
    if (rims.any(axis=0) & (np.abs(line.direction) > _ACROSS_RIM)).any():
        return True
    for other in lines:
        if other is line or abs(float(other.direction @ line.direction)) > _ACROSS or not _as_wide(line, other):
            continue
        along, across = (float(each) for each in _seen_from(other, point))
        beyond = max(-along, along - other.length, 0.0)
        if float(np.hypot(beyond, across)) <= near + (line.width + other.width) / 2:
            return True
    return False


def _as_wide(one: Line, other: Line) -> bool:
    return abs(one.width - other.width) <= 1 + 0.5 * min(one.width, other.width)


def _as_strong(one: Line, other: Line) -> bool:
    return max(one.strength, other.strength) < 1.5 * min(one.strength, other.strength)


def _in_family(line: Line, lines: list[Line], least: int) -> bool:
    """Whether a line has enough others like it beside it."""
    middle = (line.start + line.stop) / 2
    beside = sum(
        abs(float(_seen_from(other, middle)[1])) > 3 * line.width
        for other in lines
        if abs(float(other.direction @ line.direction)) > _ALONGSIDE
        and _as_wide(line, other)
        and _as_strong(line, other)
    )
    return beside >= least


def _erase(mask: Mask, line: Line, lines: list[Line]) -> None:
    """Takes a line out of a mask, where it is no wider than itself."""
    beyond = 0.5 * line.width * line.direction
    start, stop = line.start - beyond, line.stop + beyond
    rows, columns, ink = _strip(mask, start, stop, 2 * int(line.width) + 4)
    first, last = _runs(ink, max(2, round(0.006 * max(mask.shape)), round(line.width / 2)))
    widths = last - first + 1
    thin = (first >= 0) & (widths <= max(1.5 * line.width, line.width + 2))
    at = np.arange(len(thin)) - 0.5 * line.width
    crossed = (np.abs(at[:, None] - _crossings(line, lines)) <= 2 * line.width + 2).any(axis=1)
    thin &= ~_overwritten(widths, thin | crossed, 2 * int(line.width) + 1)
    here = np.arange(len(ink))[:, None]
    own = thin[None] & (here >= first[None] - 1) & (here <= last[None] + 1)
    mask[rows[own], columns[own]] = False


def _crossings(line: Line, lines: list[Line]) -> npt.NDArray[np.float64]:
    """How far along a line others cross it or end at it."""
    ends = np.array([(other.start, other.stop) for other in lines])
    along, across = _seen_from(line, ends)
    slope = across[:, 0] - across[:, 1]
    steep = np.abs(slope) > 0.3 * np.hypot(*(ends[:, 1] - ends[:, 0]).T)
    share = across[:, 0] / np.where(steep, slope, 1.0)
    meets = steep & (share > -0.1) & (share < 1.1)
    return np.asarray((along[:, 0] + share * (along[:, 1] - along[:, 0]))[meets], np.float64)


def _overwritten(widths: npt.NDArray[np.int64], thin: npt.NDArray[np.bool_], rim: int) -> npt.NDArray[np.bool_]:
    """Where a stroke comes to a line, runs along it, and leaves it again: the line is a little wider there."""
    stretches = np.zeros(len(widths), bool)
    if thin.any():
        usual = float(np.percentile(widths[thin], 30))
        bounds = np.flatnonzero(np.diff(np.r_[False, thin, False].astype(np.int8)))
        for start, stop in bounds.reshape(-1, 2):
            inner = rim < start and stop < len(widths) - rim and widths[start - 1] > 0 and widths[stop] > 0
            if inner and float(np.percentile(widths[start:stop], 25)) >= max(_WIDER * usual, usual + 1):
                stretches[start:stop] = True
    return stretches
