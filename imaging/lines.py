"""From regions on a page to lines of digits, as one reads."""

from collections.abc import Iterator, Sequence

import numpy as np

from imaging.segment import Mask, Region

# Of the lower one's height: digits of one line share at least this much of it.
_SHARED = 0.5

# Of its height: a digit is hardly ever narrower, nor a single one wider.
_NARROWEST, _WIDEST = 0.35, 1.0

_MAX_TOUCHING = 6


def reading_order(regions: Sequence[Region]) -> list[int]:
    """Indices of the regions, line by line from the top, each line from left to right."""
    lines: list[list[int]] = []
    for index in sorted(range(len(regions)), key=lambda each: regions[each].left):
        region = regions[index]
        line = max(lines, key=lambda each: _shared(regions[each[-1]], region), default=None)
        if line is not None and _shared(regions[line[-1]], region) >= _SHARED:
            line.append(index)
        else:
            lines.append([index])
    lines.sort(key=lambda line: np.mean([regions[each].top + regions[each].bottom for each in line]))
    return [index for line in lines for index in line]


def _shared(one: Region, other: Region) -> float:
    both = min(one.bottom, other.bottom) - max(one.top, other.top)
    return both / min(one.height, other.height)


def cuts(mask: Mask) -> Iterator[list[int]]:
    """Columns at which a mask may be cut into digits that touch: for each number of them the thinnest places.

    Args:
        mask: bool [height, width], as large as its ink.
    """
    height, width = mask.shape
    if width <= _WIDEST * height:
        return
    ink = mask.sum(axis=0)
    for count in range(2, min(_MAX_TOUCHING, int(width / (_NARROWEST * height))) + 1):
        reach = max(1, round(0.3 * width / count))
        middles = (round(width * each / count) for each in range(1, count))
        yield [int(np.argmin(_nearest_first(ink, middle, reach))) + max(0, middle - reach) for middle in middles]


def _nearest_first(ink: np.ndarray, middle: int, reach: int) -> np.ndarray:
    """Ink of the columns around one, a little more the farther they are from it."""
    start = max(0, middle - reach)
    columns = np.arange(start, min(len(ink), middle + reach + 1))
    return ink[columns] + np.abs(columns - middle) / reach
