"""Digits are like digits, and other marks are less so."""

import numpy as np

from imaging.likeness import USUAL, is_drawn, likeness
from imaging.normalise import normalise
from tests.imaging.drawing import CORNERS, stroke


def normalised(canvas: np.ndarray) -> np.ndarray:
    return normalise((canvas / 255).astype(np.float32), canvas > 100)


def test_digits_are_like_digits() -> None:
    canvases = [
        stroke(np.zeros((200, 200), np.uint8), each, left=40, top=40, size=110, pen=12, ink=255) for each in CORNERS
    ]
    assert likeness([normalised(canvas) for canvas in canvases]).min() > USUAL


def test_digits_are_drawn_and_blobs_and_nets_are_not() -> None:
    canvas = np.zeros((200, 200), np.uint8)
    digits = [
        normalised(stroke(canvas.copy(), each, left=40, top=40, size=110, pen=pen, ink=255))
        for each in CORNERS
        for pen in (6, 12, 24)
    ]
    assert all(is_drawn(digit) for digit in digits)
    rows, columns = np.indices((28, 28)) - 14
    blob = np.where(np.hypot(rows, columns) < 8, 255, 0).astype(np.uint8)
    net = np.where((rows % 5 < 2) | (columns % 5 < 2), 255, 0).astype(np.uint8)
    assert not is_drawn(blob)
    assert not is_drawn(net)
    assert is_drawn(np.zeros((28, 28), np.uint8)), "blank is another warning"


def test_noise_and_a_checkerboard_are_not() -> None:
    noise = np.where(np.random.default_rng(0).random((28, 28)) > 0.85, 255, 0).astype(np.uint8)
    checkers = np.kron(np.indices((4, 4)).sum(axis=0) % 2 * 255, np.ones((7, 7))).astype(np.uint8)
    assert likeness([noise, checkers]).max() < USUAL


def test_nothing_is_like_nothing() -> None:
    assert likeness([np.zeros((28, 28), np.uint8)])[0] == 0
    assert likeness([]).shape == (0,)
