"""Which of a picture's digits stand in one line."""

from collections.abc import Iterable

from imaging import Box

# Of the lower one's height: neighbours in a line share at least this much of it.
_SHARED = 0.5


def lines(boxes: Iterable[Box]) -> list[int]:
    """The line of each digit, from 0.

    Args:
        boxes: The digits of one picture in the order in which they are answered: line by line, from left to right.
    """
    numbers: list[int] = []
    before: Box | None = None
    for box in boxes:
        begins = before is None or box.left < before.left or not _beside(before, box)
        numbers.append((numbers[-1] if numbers else -1) + begins)
        before = box
    return numbers


def _beside(one: Box, other: Box) -> bool:
    shared = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    return shared >= _SHARED * min(one.height, other.height)
