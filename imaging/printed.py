"""Which straight lines were printed, not written: ruling, squares, boxes, combs, and lines to write on.

They do not end freely as strokes do, but at each other or at the picture's rim, have many others like them, or carry
what was written.
"""

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from imaging.segment import Mask
from imaging.straight import Line, Point, seen_from, strip

# How near ends meet: of the picture's longer side and at most of a line's length, or so many pixels.
_NEAR = 0.02
_NEAR_OWN = 0.06
_NEAR_LEAST = 4.0

# How many others like it a line has beside it that ends freely at both ends, or at one. At both: how far their middles
# are apart at most, of either's length, along and across. Over a page of digits many strokes lean about alike.
_FAMILY = 8, 4
_ALONG, _ASIDE = 2.5, 4.0

# Of the picture: a line with one free end is as long, or else it may be a stroke.
_LONG = 0.4

# Of each other's length: opposite sides of a box. Of their length: how far apart they are at least. Of a fourth side
# that was not found: how much of it is ink.
_EQUAL = 1.25
_LEAST_BOX = 0.3
_COVERED = 0.7

# Of the longest ones: lines that are looked at for boxes with a hidden side, and for lines to write on.
_MOST_SIDES = 40
_MOST_BASE_LINES = 8

# Of a base line's length: how tall is what stands on it, how high above it that may float, how far the line runs on
# beyond it at either end, and what is a speck.
_TALLEST = 0.83
_FLOATS = 0.35
_BEYOND = 0.08
_SPECK = 0.1

_ENDS = "start", "stop", "direction"
_MEASURES = "length", "width", "strength"

Row = npt.NDArray[np.bool_]
"""bool [lines]."""
Table = npt.NDArray[np.bool_]
"""bool [lines, lines]."""

_ACROSS = np.cos(np.radians(70.0))
# A line with one free end runs about level or upright, as pages are held; a stroke that ends at the rim may lean.
_LEVEL = np.cos(np.radians(20.0))
_BASE = np.cos(np.radians(8.0))
_ACROSS_RIM = np.sin(np.radians(30.0))
_ALONGSIDE = np.cos(np.radians(12.0))
_PARALLEL = np.cos(np.radians(5.0))
_RULED = np.cos(np.radians(2.0))  # lines that end freely; strokes lean more differently


def printed(lines: Sequence[Line], mask: Mask) -> list[Line]:
    """The printed ones of the lines, and sides of boxes that were not found.

    Args:
        lines: All straight lines, the longest first.
        mask: Where there is ink.
    """
    held = _held([*lines, *_hidden_sides(lines, mask)], mask.shape)
    level = [line for line in lines if line not in held and abs(float(line.direction[0])) >= _BASE]
    return [*held, *(line for line in level[:_MOST_BASE_LINES] if _is_base_line(line, mask))]


def _held(lines: Sequence[Line], shape: tuple[int, int]) -> list[Line]:
    """The lines that hold each other: without one, those that end at it may be strokes.

    Line i is held by its ends, each at the rim or at some line j, or by the lines j like it beside it. One that ends
    freely may be printed none the less, but not for one other line's sake: two strokes of a seven hold each other.
    """
    if not lines:
        return []
    starts, stops, directions = (np.array([getattr(each, name) for each in lines]) for name in _ENDS)
    lengths, widths, strengths = (np.array([getattr(each, name) for each in lines]) for name in _MEASURES)
    cosines = np.abs(directions @ directions.T)
    as_wide = _alike(widths[:, None], widths)
    as_strong = np.maximum(strengths[:, None], strengths) < 1.5 * np.minimum(strengths[:, None], strengths)
    near = np.minimum(_NEAR * max(shape), np.maximum(_NEAR_LEAST, _NEAR_OWN * lengths))

    along, across = _seen_from_all(lines, (starts + stops) / 2)
    nearby = (np.abs(along - lengths / 2) < _ALONG * lengths) & (np.abs(across) < _ASIDE * lengths)
    beside = (cosines > _PARALLEL) & as_wide & as_strong & (np.abs(across) > 3 * widths[:, None])
    close = beside & (nearby | nearby.T) & (cosines > _RULED)
    meets, rims = [], []
    for points in (starts, stops):
        along, across = _seen_from_all(lines, points)
        away = np.hypot(np.maximum(np.maximum(-along, along - lengths), 0), across)
        meets.append((cosines <= _ACROSS) & as_wide & (away <= near[:, None] + (widths[:, None] + widths) / 2))
        from_rim = np.minimum(points, np.array(shape[::-1]) - points)
        rims.append(((from_rim <= near[:, None] / 2) & (np.abs(directions) > _ACROSS_RIM)).any(axis=1))
    upright = (np.abs(directions).max(axis=1) > _LEVEL) & (lengths > _LONG * shape[1])

    kept = np.ones(len(lines), bool)
    while True:
        ends = _held_ends(meets, rims, kept)
        firm = kept & (ends == 2)
        family = np.where((ends > 0)[:, None], beside, close) & kept
        in_family = np.count_nonzero(family, axis=1) >= np.take(_FAMILY, np.minimum(ends, 1))
        held = firm | (kept & (in_family | (upright & (_held_ends(meets, rims, firm) == 1))))
        if held.sum() == kept.sum():
            return [line for line, each in zip(lines, held, strict=True) if each]
        kept = held


def _seen_from_all(lines: Sequence[Line], points: Point) -> tuple[Point, Point]:
    """How far along each line j points i, [N, 2], lie from its start, and how far across from it: [i, j]."""
    along, across = np.array([seen_from(line, points) for line in lines]).transpose(1, 2, 0)
    return along, across


def _held_ends(meets: Sequence[Table], rims: Sequence[Row], among: Row) -> npt.NDArray[np.int64]:
    """How many ends of each line lie at the rim or at one of the lines `among` the others, 0 to 2."""
    held = [at_rim | (at_line & among).any(axis=1) for at_line, at_rim in zip(meets, rims, strict=True)]
    return np.asarray(np.sum(held, axis=0))


def _alike(width: npt.ArrayLike, other: npt.ArrayLike) -> Table:
    """Whether two lines are about as wide as each other."""
    return np.asarray(np.abs(np.subtract(width, other)) <= 1 + 0.5 * np.minimum(width, other))


def _hidden_sides(lines: Sequence[Line], mask: Mask) -> list[Line]:
    """The fourth sides of boxes of which three were found: a stroke that lies on one hides that it is a line."""
    near = _NEAR * max(mask.shape)
    sides, longest = [], lines[:_MOST_SIDES]
    for one, other in combinations(longest, 2):
        if not _are_opposite(one, other):
            continue
        start, stop = other.start, other.stop
        if one.direction @ other.direction < 0:
            start, stop = stop, start
        missing = [
            side for side in ((one.start, start), (one.stop, stop))
            if not any(_alike(line.width, one.width) and _runs_along(line, side, near + line.width) for line in longest)
        ]  # fmt: skip
        if len(missing) != 1:
            continue
        ((start, stop),) = missing
        width = max(one.width, other.width)
        _, _, ink = strip(mask, start, stop, max(2, round(width)))
        if ink.any(axis=1).mean() > _COVERED:
            sides.append(Line(start=start, stop=stop, width=width, strength=min(one.strength, other.strength)))
    return sides


def _are_opposite(one: Line, other: Line) -> bool:
    """Whether two lines may be opposite sides of an upright or slanted rectangle."""
    if abs(float(one.direction @ other.direction)) < _ALONGSIDE or not _alike(one.width, other.width):
        return False
    shorter, longer = sorted((one.length, other.length))
    between = (other.start + other.stop - one.start - one.stop) / 2
    apart = float(np.hypot(*between))
    level = abs(float(between @ one.direction)) <= (1 - _EQUAL**-1) * apart
    return longer <= _EQUAL * shorter and apart >= _LEAST_BOX * longer and level


def _runs_along(line: Line, side: tuple[Point, Point], near: float) -> bool:
    """Whether a line runs from one end of a side to the other, or beyond."""
    along, across = seen_from(line, np.array(side))
    return bool((np.abs(across) < near).all() and along.min() > -near and along.max() < line.length + near)


def _is_base_line(line: Line, mask: Mask) -> bool:
    """Whether a level line has something written on it: narrower, and not as tall as the line is long."""
    length = line.length
    (left, top), (right, bottom) = np.sort([line.start, line.stop], axis=0)
    first_row, first_column = max(0, int(top - length)), max(0, int(left - length))
    above = mask[first_row : int(bottom) + 1, first_column : int(right + length)].astype(np.uint8)
    ys, xs = np.nonzero(above)
    _, across = seen_from(line, np.stack([xs + first_column, ys + first_row], axis=1).astype(np.float64))
    clear = -across * np.sign(line.direction[0]) > line.width / 2 + 1.5
    above[ys[~clear], xs[~clear]] = 0
    _, _, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    x, y, width, height = stats[1:, :4].T
    on_it = (np.maximum(width, height) > _SPECK * length) & (y + height > len(above) - _FLOATS * length)
    over_it = on_it & (x + width > left - first_column) & (x < right - first_column)
    if not over_it.any():
        return False
    begins, ends = x[over_it].min() + first_column - left, right - first_column - (x + width)[over_it].max()
    return bool(min(begins, ends) > _BEYOND * length and y[over_it].min() > len(above) - _TALLEST * length)
