"""Digits as people draw them, made of lines; and the files that pictures come in."""

import io

import cv2
import numpy as np
from PIL import Image

# Corners of one way to draw each digit, in a box of 1 x 1.
CORNERS = {
    1: [[(0.35, 0.2), (0.55, 0.0), (0.55, 1.0)]],
    2: [[(0.1, 0.2), (0.3, 0.0), (0.65, 0.02), (0.8, 0.25), (0.6, 0.55), (0.1, 1.0), (0.85, 1.0)]],
    4: [[(0.5, 0.0), (0.05, 0.65), (0.8, 0.65)], [(0.6, 0.35), (0.55, 1.0)]],
    5: [[(0.25, 0.05), (0.2, 0.45), (0.55, 0.42), (0.75, 0.65), (0.6, 0.95), (0.1, 0.98)], [(0.3, 0.0), (0.8, 0.0)]],
    7: [[(0.05, 0.0), (0.8, 0.0), (0.35, 1.0)]],
}


def stroke(canvas: np.ndarray, digit: int, *, left: int, top: int, size: int, pen: int, ink) -> np.ndarray:
    """Draw a digit into a picture; returns the picture."""
    for line in CORNERS[digit]:
        points = [(round(left + size * x), round(top + size * y)) for x, y in line]
        cv2.polylines(canvas, [np.array(points, np.int32)], False, ink, pen, cv2.LINE_AA)
    return canvas


def page(height: int = 480, width: int = 640, tone: int = 235, grain: float = 0.0, seed: int = 0) -> np.ndarray:
    """Paper of one tone with some grain, uint8 [height, width]."""
    noise = np.random.default_rng(seed).normal(0, grain, (height, width)) if grain else 0
    return np.clip(tone + np.zeros((height, width)) + noise, 0, 255).astype(np.uint8)


def shaded(picture: np.ndarray, *, to: float = 0.45) -> np.ndarray:
    """The picture under light that falls off to the right and a shadow with a sharp edge."""
    height, width = picture.shape[:2]
    light = np.linspace(1, to, width)[None] * np.where(
        np.add.outer(np.arange(height), np.arange(width)) > width, 0.7, 1
    )
    return (picture * (light if picture.ndim == 2 else light[:, :, None])).astype(np.uint8)


def encoded(picture: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    """A picture file."""
    data = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(data, kind, **options)
    return data.getvalue()
