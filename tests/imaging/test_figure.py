"""Figures have the digits in them, and what each step made of the picture."""

import numpy as np
import pytest

from imaging.figure import annotated, explained
from imaging.reader import trace
from tests.imaging.drawing import encoded, page, stroke


@pytest.fixture(scope="module")
def reading():
    return trace(encoded(stroke(page(), 7, left=200, top=100, size=200, pen=12, ink=30)))


def test_the_box_is_drawn_around_the_digit(reading):
    marked = np.asarray(annotated(reading, ["7"])).astype(int)
    red = (marked[:, :, 0] > 180) & (marked[:, :, 1] < 80)
    box = reading.digits[0].box
    assert red[box.top + box.height // 2, box.left - 3 : box.left].any()
    assert not red[box.top + 5 : box.top + box.height - 5, box.left + 5 : box.left + box.width - 5].any()


@pytest.mark.parametrize("many", [False, True])
def test_a_blank_picture_has_its_figures_too(many):
    reading = trace(encoded(page()), many=many)
    labels = ["-"] * len(reading.digits)
    assert annotated(reading, labels).size == (640, 480)
    assert explained(reading, labels).width > 600


def test_every_step_has_a_tile(reading):
    figure = np.asarray(explained(reading, ["7"]).convert("L"))
    tiles = [figure[60:250, 20 + 316 * column : 300 + 316 * column] for column in range(3)]
    assert all(tile.std() > 5 for tile in tiles)
