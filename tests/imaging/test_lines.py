"""Regions are read line by line, and cut where digits touch."""

import numpy as np
import pytest

from imaging.lines import cuts, reading_order
from imaging.segment import Region


def region(left: int, top: int, width: int = 20, height: int = 40) -> Region:
    return Region(left=left, top=top, right=left + width, bottom=top + height, parts=(1,), area=width * height)


def test_lines_are_read_from_the_top_and_each_from_the_left():
    places = [(200, 105), (20, 10), (90, 0), (160, 12), (30, 110), (110, 95)]
    regions = [region(*place) for place in places]
    assert [places[each] for each in reading_order(regions)] == [
        (20, 10), (90, 0), (160, 12), (30, 110), (110, 95), (200, 105),
    ]  # fmt: skip


def test_a_line_that_climbs_is_one_line():
    regions = [region(40 * index, 200 - 15 * index) for index in range(10)]
    assert reading_order(regions) == list(range(10))


def test_no_regions_have_no_order():
    assert reading_order([]) == []


@pytest.mark.parametrize("count", [2, 3])
def test_the_thinnest_place_is_among_the_cuts(count):
    mask = np.zeros((40, 30 * count), bool)
    mask[20] = True  # a stroke through all
    for index in range(count):
        mask[:, 30 * index + 3 : 30 * index + 27] = True
    found = list(cuts(mask))[count - 2]
    assert len(found) == count - 1
    for index, column in enumerate(found, 1):
        assert abs(column - 30 * index) <= 3


def test_what_is_as_narrow_as_a_digit_is_not_cut():
    assert list(cuts(np.ones((40, 30), bool))) == []
