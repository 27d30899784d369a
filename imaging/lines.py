"""From regions on a page to lines of digits, as one reads."""

from collections.abc import Iterator, Sequence

import numpy as np

from imaging.segment import Mask, Region

# Of the lower one's height: digits of one line share at least this much of it.
_SHARED = 0.5

# Of its height: a digit is hardly ever narrower, and no more of them touch than are as wide as this. The columns at
# which it is tried to part them are so far apart, and no more than so many.
_NARROWEST = 0.12
_WIDEST = 8.0
_STEP = 0.05
_MOST_CUTS = 40


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


def cuts(mask: Mask) -> Iterator[tuple[int, int]]:
    """Columns at which a mask may be cut into two that hold a digit or more each, and how many strokes each cut parts.

    Args:
        mask: bool [height, width], as large as its ink.
    """
    height, width = mask.shape
    if width > _WIDEST * height:
        return
    least = max(1, round(_NARROWEST * height))
    for place in range(least, width - least + 1, max(1, round(_STEP * height), -(-width // _MOST_CUTS))):
        through = (mask[:, place - 1] & mask[:, place]).astype(np.int8)
        yield place, int(np.count_nonzero(np.diff(through, prepend=0) > 0))
