"""MNIST's layout: 20 pixels on the longer side, centred by mass, strokes of its width, white on black."""

import cv2
import numpy as np
import pytest

from imaging.normalise import normalise, stroke_width
from tests.imaging.drawing import stroke


def drawn(size: int, pen: int, *, strength: float = 1.0) -> np.ndarray:
    canvas = np.zeros((2 * size, 2 * size), np.uint8)
    stroke(canvas, 5, left=size // 2, top=size // 2, size=size, pen=pen, ink=255)
    return canvas.astype(np.float32) / 255 * np.float32(strength)


def normalised(amount: np.ndarray) -> np.ndarray:
    return normalise(amount, amount > 0.4 * amount.max())


@pytest.mark.parametrize("size", [40, 160, 500])
def test_the_longer_side_has_20_pixels_and_the_mass_is_in_the_middle(size):
    pixels = normalised(drawn(size, max(2, size // 12)))
    rows, columns = np.nonzero(pixels > 30)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
    middle = [float((pixels * grid).sum() / pixels.sum()) for grid in np.mgrid[0:28, 0:28]]
    np.testing.assert_allclose(middle, 14, atol=0.6)


@pytest.mark.parametrize("strength", [0.05, 0.3, 1.0])
def test_faint_ink_becomes_white(strength):
    assert normalised(drawn(160, 14, strength=strength)).max() == 255


@pytest.mark.parametrize("pen", [1, 2, 5, 12, 25, 40])
def test_strokes_of_every_pen_get_a_width_of_mnists(pen):
    pixels = normalised(drawn(200, pen))
    large = cv2.resize(pixels, None, fx=8, fy=8, interpolation=cv2.INTER_LINEAR)
    assert 1.5 < stroke_width(large > 127) / 8 < 4.6


def test_pixels_in_mnists_layout_stay_as_they_are():
    once = normalised(drawn(160, 16))
    np.testing.assert_array_equal(normalised(once.astype(np.float32) / 255), once)


def test_a_dot_has_a_layout_as_well():
    amount = np.zeros((9, 9), np.float32)
    amount[4, 4] = 1
    assert normalised(amount).max() == 255


@pytest.mark.parametrize("width", [3, 8, 21])
def test_the_width_of_a_bar_is_measured(width):
    mask = np.zeros((100, 300), bool)
    mask[40 : 40 + width, 20:280] = True
    assert stroke_width(mask) == pytest.approx(width, rel=0.25)
