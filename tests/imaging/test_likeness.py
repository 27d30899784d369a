"""Digits are like digits, and other marks are less so."""

import numpy as np

from imaging.likeness import USUAL, likeness
from imaging.normalise import normalise
from tests.imaging.drawing import CORNERS, stroke


def normalised(canvas: np.ndarray) -> np.ndarray:
    return normalise(canvas.astype(np.float32) / 255, canvas > 100)


def test_digits_are_like_digits():
    canvases = [
        stroke(np.zeros((200, 200), np.uint8), each, left=40, top=40, size=110, pen=12, ink=255) for each in CORNERS
    ]
    assert likeness([normalised(canvas) for canvas in canvases]).min() > USUAL


def test_noise_and_a_checkerboard_are_not():
    noise = np.where(np.random.default_rng(0).random((28, 28)) > 0.85, 255, 0).astype(np.uint8)
    checkers = np.kron(np.indices((4, 4)).sum(axis=0) % 2 * 255, np.ones((7, 7))).astype(np.uint8)
    assert likeness([noise, checkers]).max() < USUAL


def test_nothing_is_like_nothing():
    assert likeness([np.zeros((28, 28), np.uint8)])[0] == 0
    assert likeness([]).shape == (0,)
