"""Which straight lines were printed, not written: ruling, squares, boxes, combs, and lines to write on.

They do not end freely as strokes do, but at each other or at the picture's rim, have many others like them, or carry
what was written.
"""

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np

from imaging.segment import Mask
from imaging.straight import Line, Point, seen_from, strip

# How near ends meet: of the picture's longer side and at most of a line's length, or so many pixels.
_NEAR = 0.02
_NEAR_OWN = 0.06
_NEAR_LEAST = 4.0

# How many others like it a line has beside it that ends freely at both ends, or at one.
_FAMILY = 8, 4

# Of the picture: a line with one free end is as long, or else it may be a stroke.
_LONG = 0.4

# Of each other's length: opposite sides of a box. Of their length: how far apart they are at least. Of a fourth side
# that was not found: how much of it is ink.
_EQUAL = 1.25
_LEAST_BOX = 0.3
_COVERED = 0.7

# Of a base line's length: how tall is what stands on it, how high above it that may float, how far the line runs on
# beyond it at either end, and what is a speck.
_TALLEST = 0.83
_FLOATS = 0.35
_BEYOND = 0.08
_SPECK = 0.1

_ACROSS = np.cos(np.radians(70.0))
# A line with one free end runs about level or upright, as pages are held; a stroke that ends at the rim may lean.
_LEVEL = np.cos(np.radians(20.0))
_BASE = np.cos(np.radians(8.0))
_ACROSS_RIM = np.sin(np.radians(30.0))
_ALONGSIDE = np.cos(np.radians(12.0))


def printed(lines: Sequence[Line], mask: Mask) -> list[Line]:
    """The printed ones of the lines, and sides of boxes that were not found.

    Args:
        lines: All straight lines.
        mask: Where there is ink.
    """
    held = _held([*lines, *_hidden_sides(lines, mask)], mask.shape)
    return [*held, *(line for line in lines if line not in held and _is_base_line(line, mask))]


def _held(lines: list[Line], shape: tuple[int, int]) -> list[Line]:
    """The lines that hold each other: without one, those that end at it may be strokes."""
    while True:
        firm = [line for line in lines if _ends(line, lines, shape) == 2]
        kept = [line for line in lines if line in firm or _is_held(line, lines, firm, shape)]
        if len(kept) == len(lines):
            return kept
        lines = kept


def _is_held(line: Line, lines: list[Line], firm: list[Line], shape: tuple[int, int]) -> bool:
    """Whether a line with a free end is printed none the less: two strokes of a seven hold each other as well."""
    if _in_family(line, lines, _FAMILY[_ends(line, lines, shape)]):
        return True
    level = np.abs(line.direction).max() > _LEVEL
    return bool(level) and line.length > _LONG * shape[1] and _ends(line, firm, shape) == 1


def _ends(line: Line, lines: list[Line], shape: tuple[int, int]) -> int:
    """How many of a line's ends lie at the rim or at another line that crosses its direction, 0 to 2."""
    height, width = shape
    near = min(_NEAR * max(shape), max(_NEAR_LEAST, _NEAR_OWN * line.length))
    return sum(_ends_at(point, line, lines, near, (width, height)) for point in (line.start, line.stop))


def _ends_at(point: Point, line: Line, lines: list[Line], near: float, size: tuple[int, int]) -> bool:
    """Whether a line's end lies at the rim or at another line that crosses its direction."""
    rims = np.stack((point, np.array(size) - point)) <= near / 2
    if (rims.any(axis=0) & (np.abs(line.direction) > _ACROSS_RIM)).any():
        return True
    for other in lines:
        if other is line or abs(float(other.direction @ line.direction)) > _ACROSS or not _as_wide(line, other):
            continue
        along, across = (float(each) for each in seen_from(other, point))
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
        abs(float(seen_from(other, middle)[1])) > 3 * line.width
        for other in lines
        if abs(float(other.direction @ line.direction)) > _ALONGSIDE
        and _as_wide(line, other)
        and _as_strong(line, other)
    )
    return beside >= least


def _hidden_sides(lines: Sequence[Line], mask: Mask) -> list[Line]:
    """The fourth sides of boxes of which three were found: a stroke that lies on one hides that it is a line."""
    near = _NEAR * max(mask.shape)
    sides = []
    for one, other in combinations(lines, 2):
        if not _are_opposite(one, other):
            continue
        start, stop = other.start, other.stop
        if one.direction @ other.direction < 0:
            start, stop = stop, start
        missing = [
            ends for ends in ((one.start, start), (one.stop, stop))
            if not any(_joins(line, *ends, near + line.width) for line in lines)
        ]  # fmt: skip
        if len(missing) != 1:
            continue
        width = max(one.width, other.width)
        _, _, ink = strip(mask, *missing[0], max(2, round(width)))
        if ink.any(axis=0).mean() > _COVERED:
            start, stop = missing[0]
            sides.append(Line(start=start, stop=stop, width=width, strength=min(one.strength, other.strength)))
    return sides


def _are_opposite(one: Line, other: Line) -> bool:
    """Whether two lines may be opposite sides of an upright or slanted rectangle."""
    if abs(float(one.direction @ other.direction)) < _ALONGSIDE or not _as_wide(one, other):
        return False
    shorter, longer = sorted((one.length, other.length))
    between = (other.start + other.stop - one.start - one.stop) / 2
    apart = float(np.hypot(*between))
    level = abs(float(between @ one.direction)) <= (1 - _EQUAL**-1) * apart
    return longer <= _EQUAL * shorter and apart >= _LEAST_BOX * longer and level


def _joins(line: Line, start: Point, stop: Point, near: float) -> bool:
    """Whether a line runs from one point to another."""
    return any(
        float(np.hypot(*(one - start))) < near and float(np.hypot(*(other - stop))) < near
        for one, other in ((line.start, line.stop), (line.stop, line.start))
    )


def _is_base_line(line: Line, mask: Mask) -> bool:
    """Whether a level line has something written on it: narrower, and not as tall as the line is long."""
    if abs(float(line.direction[0])) < _BASE:
        return False
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
