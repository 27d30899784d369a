"""Strokes stay, ruling and frames go, fragments find their digit and strangers do not."""

import cv2
import numpy as np
import pytest

from imaging.segment import group, parts, without_frames, without_ruling
from tests.imaging.drawing import stroke


def mask(height: int = 400, width: int = 600) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def segmented(drawn: np.ndarray):
    labels, regions = parts(without_frames(drawn > 0), least=0.01, most=100)
    return group(regions, labels, reach=0.25)


@pytest.mark.parametrize("tilt", [-6, 0, 9], ids="{} pixels".format)
@pytest.mark.parametrize("squared", [False, True], ids=["ruled", "squared"])
def test_ruling_goes_and_the_digit_stays(tilt, squared):
    digit = stroke(mask(), 5, left=200, top=80, size=220, pen=12, ink=1) > 0
    page = mask()
    for y in range(30, 400, 50):
        cv2.line(page, (0, y), (599, y + tilt), 1, 2)
    if squared:
        for x in range(25, 600, 50):
            cv2.line(page, (x, 0), (x - tilt, 399), 1, 2)
    left = without_ruling((page > 0) | digit)
    assert (left & digit).sum() > 0.97 * digit.sum()
    assert (left & ~digit).sum() < 0.3 * ((page > 0) & ~digit).sum()


@pytest.mark.parametrize("digit", [1, 4, 7])
def test_a_digit_as_large_as_the_picture_is_no_ruling(digit):
    drawn = stroke(mask(600, 600), digit, left=60, top=40, size=520, pen=3, ink=1) > 0
    np.testing.assert_array_equal(without_ruling(drawn), drawn)


def test_a_box_around_a_digit_goes():
    drawn = stroke(mask(), 4, left=220, top=120, size=120, pen=8, ink=1)
    cv2.rectangle(drawn, (180, 90), (380, 280), 1, 2)
    (found,) = segmented(drawn)
    assert found.width < 120


def test_a_ring_is_no_box():
    drawn = cv2.ellipse(mask(), (300, 200), (70, 110), 0, 0, 360, 1, 8)
    assert len(segmented(drawn)) == 1


def test_the_bar_of_a_five_belongs_to_it():
    (found,) = segmented(stroke(mask(), 5, left=200, top=80, size=200, pen=10, ink=1))
    assert found.height > 190


def test_digits_side_by_side_are_several():
    drawn = mask()
    for index, digit in enumerate((5, 4, 2)):
        stroke(drawn, digit, left=60 + 160 * index, top=100, size=140, pen=10, ink=1)
    assert len(segmented(drawn)) == 3


def test_specks_are_left_out():
    drawn = stroke(mask(), 7, left=200, top=80, size=200, pen=10, ink=1)
    for x, y in np.random.default_rng(0).integers(10, 390, (30, 2)):
        drawn[y : y + 3, x : x + 3] = 1
    (found,) = segmented(drawn)
    assert found.width < 190
