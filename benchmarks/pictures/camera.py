"""The camera: where it stands, and what it makes of what is before it."""

from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.pictures.pens import log_uniform
from benchmarks.pictures.strokes import Bytes, Floats, Matrix, Strokes, scale
from benchmarks.pictures.textures import noise


@dataclass(frozen=True, kw_only=True)
class View:
    """Where the camera stands.

    Attributes:
        matrix: From the unit of strokes to pixels.
        scale: Pixels of that unit in the middle of the digit.
        mm: Pixels of a millimetre there.
        shape: Height and width of the picture.
    """

    matrix: Matrix
    scale: float
    mm: float
    shape: tuple[int, int]

    def project(self, points_mm: Matrix) -> Matrix:
        """Pixels of points on the sheet, [N, 2]; the digit's middle is its origin."""
        return _project(self.matrix, points_mm * self.mm / self.scale)


def frame(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a picture: mostly of some hundred thousand pixels, now and then of nine million."""
    kind = rng.random()
    if kind < 0.1:
        long = log_uniform(rng, 200, 600)
    elif kind < 0.95:
        long = log_uniform(rng, 600, 1400)
    else:
        long = log_uniform(rng, 1400, 2400) if kind < 0.993 else 4000.0
    short = long / rng.choice([4 / 3, 4 / 3, 3 / 2, 16 / 9, 1.0])
    sides = (round(short), round(long))
    return sides if rng.random() < 0.4 else sides[::-1]


def aim(rng: np.random.Generator, strokes: Strokes, shape: tuple[int, int], share: float, digit_mm: float) -> View:
    """Points the camera at a digit, which then takes that share of the picture's shorter side."""
    height, width = shape
    angle, tilt, towards = np.radians(rng.triangular(-15, 0, 15)), rng.uniform(0.78, 1), rng.uniform(0, np.pi)
    turn = _rotation(towards) @ np.diag([1, tilt, 1]) @ _rotation(angle - towards)
    lean = np.eye(3)
    lean[2, :2] = rng.uniform(-0.22, 0.22, 2) * share
    seen = _project(lean @ turn, strokes.points)
    low, high = seen.min(axis=0), seen.max(axis=0)
    size = share * min(shape) / max(high - low)
    # From edge to edge with some room for the line's width; most people put the digit near the middle.
    room = np.maximum(0, np.array([width, height]) - (high - low) * size - 0.14 * min(shape)) / 2
    middle = np.array([width, height]) / 2 + room * rng.uniform(-1, 1, 2) * rng.uniform(0, 1)
    place = np.eye(3)
    place[:2, 2] = middle - size * (low + high) / 2
    matrix = place @ np.diag([size, size, 1]) @ lean @ turn
    return View(matrix=matrix, scale=scale(matrix), mm=scale(matrix) / digit_mm, shape=shape)


def _project(matrix: Matrix, points: Matrix) -> Matrix:
    turned = np.c_[points, np.ones(len(points))] @ matrix.T
    return np.asarray(turned[:, :2] / turned[:, 2:])


def _rotation(angle: float) -> Matrix:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def focus(rng: np.random.Generator, stroke_pixels: float, view: View) -> tuple[str, float]:
    """How sharp the picture is in a word, and how many pixels wide its edges are."""
    kind = rng.choice(["sharp", "soft", "defocused", "shaken"], p=[0.5, 0.25, 0.15, 0.1])
    most = min(0.8 * stroke_pixels + 1.5, 0.05 * view.scale + 1.5)
    wide = {"sharp": 1.4, "soft": 0.4 * most + 1, "defocused": most + 1, "shaken": 1.8}[str(kind)]
    return str(kind), max(1.4, float(wide))


def white_balance(rng: np.random.Generator) -> Floats:
    """Factor of each colour: warm lamps, cold windows."""
    warm = rng.normal(0, 0.035)
    return np.array([1 + warm, 1 + rng.normal(0, 0.008), 1 - 1.4 * warm], np.float32)


def sensor_noise(rng: np.random.Generator, view: View, contrast: float) -> tuple[Floats, list[Floats]]:
    """Noise of brightness and of each colour, never so strong that it hides the digit."""
    strength = min(log_uniform(rng, 0.8, 11), 0.09 * contrast)
    bright = noise(rng, view.shape, 1.0) * np.float32(0.7 * strength)
    colour = [noise(rng, view.shape, 2.5) * np.float32(0.35 * strength) for _ in range(3)]
    return bright, colour


def shake(rng: np.random.Generator, picture: Bytes, stroke: float) -> Bytes:
    """The picture if the hand was unsteady: moved by about the width of a stroke."""
    long = min(1.1 * stroke + 2, 40) * rng.uniform(0.6, 1)
    side = 2 * int(long / 2 + 1) + 1
    kernel = np.zeros((side, side), np.float32)
    angle = rng.uniform(0, np.pi)
    dx, dy = long / 2 * np.cos(angle), long / 2 * np.sin(angle)
    ends = [(round((side // 2 + s * dx) * 16), round((side // 2 + s * dy) * 16)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8)
