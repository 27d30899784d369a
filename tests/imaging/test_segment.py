"""Strokes stay, ruling and frames go, fragments find their digit and strangers do not."""

import cv2
import numpy as np

from imaging.segment import group, parts, without_frames
from tests.imaging.drawing import stroke


def mask(height: int = 400, width: int = 600) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def segmented(drawn: np.ndarray):
    labels, regions = parts(without_frames(drawn > 0), least=0.01, most=100)
    return group(regions, labels, reach=0.25)


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
