"""Lines of digits as one sees them."""

import pytest

from clients.lines import lines
from imaging import Box


def box(left: int, top: int, width: int = 20, height: int = 30) -> Box:
    return Box(left=left, top=top, width=width, height=height)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], []),
        ([box(0, 0)], [0]),
        ([box(0, 0), box(30, 8), box(60, 16), box(90, 24)], [0, 0, 0, 0]),
        ([box(0, 0), box(30, 0), box(0, 40), box(30, 40)], [0, 0, 1, 1]),
        ([box(0, 0), box(30, 40), box(60, 40)], [0, 1, 1]),
        ([box(30, 0, height=60), box(0, 31)], [0, 1]),
        ([box(0, 0, height=60), box(30, 20, height=20)], [0, 0]),
    ],
    ids=["none", "one", "falling", "two", "to the right below", "back to the left", "a small one"],
)
def test_a_line_ends_where_the_next_digit_is_farther_left_or_below(boxes, expected):
    assert lines(iter(boxes)) == expected
