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


def test_a_mask_may_be_cut_anywhere_but_for_a_sliver_at_either_side():
    places = [place for place, _ in cuts(np.ones((100, 60), bool))]
    assert places == list(range(12, 49, 5))


def test_the_strokes_that_a_cut_parts_are_counted():
    mask = np.zeros((100, 60), bool)
    mask[10:20, :40] = mask[40:50, :40] = mask[80:90] = True
    strokes = dict(cuts(mask))
    assert {strokes[place] for place in strokes if place < 40} == {3}
    assert {strokes[place] for place in strokes if place > 40} == {1}


@pytest.mark.parametrize("width", [8, 330])
def test_what_is_as_narrow_as_a_one_or_wider_than_eight_digits_is_not_cut(width):
    assert list(cuts(np.ones((40, width), bool))) == []


def test_there_is_an_end_to_trying():
    assert all(len(list(cuts(np.ones((12, width), bool)))) <= 40 for width in range(1, 97))
