"""Takes out of a picture's strokes what was printed: ruling, squares, boxes, combs, and lines to write on.

Where a stroke crosses such a line it is wider there, and stays.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imaging.ink import Map
from imaging.printed import printed
from imaging.segment import Mask
from imaging.straight import Line, runs, seen_from, straight_lines, strip

# Shorter pictures hold a digit and nothing else, or too few pixels to tell.
_LEAST_SIDE = 48

# Of a line's width: where it is all along as wide, a stroke lies on it.
_WIDER = 1.25


def without_ruling(mask: Mask, amount: Map) -> Mask:
    """The strokes but for what was printed; all of them if little else would be left.

    Args:
        mask: Where there is ink.
        amount: How much of it.
    """
    if min(mask.shape) < _LEAST_SIDE or not mask.any():
        return mask
    lines = printed(straight_lines(mask, amount), mask)
    left = mask.copy()
    for line in sorted(lines, key=lambda each: -each.length):
        _erase(left, line, lines)
    removed = int(mask.sum() - left.sum())
    return left if left.sum() > 0.01 * removed else mask


def _erase(mask: Mask, line: Line, lines: Sequence[Line]) -> None:
    """Takes a line out of a mask, where it is no wider than itself."""
    beyond = 0.5 * line.width * line.direction
    start, stop = line.start - beyond, line.stop + beyond
    rows, columns, ink = strip(mask, start, stop, 2 * int(line.width) + 4)
    first, last = runs(ink, max(2, round(0.006 * max(mask.shape)), round(line.width / 2)))
    widths = last - first + 1
    thin = (first >= 0) & (widths <= max(1.5 * line.width, line.width + 2))
    at = np.arange(len(thin)) - 0.5 * line.width
    crossed = (np.abs(at[:, None] - _crossings(line, lines)) <= 2 * line.width + 2).any(axis=1)
    thin &= ~_overwritten(widths, thin | crossed, 2 * int(line.width) + 1)
    here = np.arange(ink.shape[1])
    own = thin[:, None] & (here >= first[:, None] - 1) & (here <= last[:, None] + 1)
    mask[rows[own], columns[own]] = False


def _crossings(line: Line, lines: Sequence[Line]) -> npt.NDArray[np.float64]:
    """How far along a line others cross it or end at it."""
    ends = np.array([(other.start, other.stop) for other in lines])
    along, across = seen_from(line, ends)
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
