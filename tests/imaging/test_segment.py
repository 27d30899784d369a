"""Strokes stay, ruling and frames go, fragments find their digit and strangers do not."""

import cv2
import numpy as np
import pytest

from imaging.ink import Ink
from imaging.segment import group, parts, strokes, without_frames
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


@pytest.mark.parametrize(("faint", "pieces"), [(0.3, 1), (0.02, 2)])
def test_a_hairline_that_fades_is_one_stroke_and_a_broken_one_two(faint, pieces):
    amount = cv2.polylines(mask().astype(np.float32), [np.array([(300, 50), (300, 350)])], False, 1.0, 2, cv2.LINE_AA)
    amount[200:204] *= faint
    _, regions = parts(strokes(ink(amount)), least=0.02, most=10)
    assert len(regions) == pieces


def test_strokes_side_by_side_are_not_joined_by_what_is_between_them():
    amount = np.zeros((400, 600), np.float32)
    amount[50:350, 300:306] = amount[50:350, 312:318] = 1.0
    amount[50:350, 306:312] = 0.3
    _, regions = parts(strokes(ink(amount)), least=0.02, most=10)
    assert len(regions) == 2


def ink(amount: np.ndarray) -> Ink:
    tone = np.rint(255 * (1 - amount)).astype(np.uint8)
    return Ink(amount=amount, tone=tone, light=False, noise=0.0, window=None, expected=True, blur=0.0)
