"""Light on a sheet or a board: slopes, lamps, folds, and the shadows of those who take photographs."""

import cv2
import numpy as np

from benchmarks.pictures.camera import View
from benchmarks.pictures.pens import log_uniform
from benchmarks.pictures.strokes import Floats


def light(rng: np.random.Generator, surface: str, view: View, field: Floats) -> tuple[str, Floats]:
    """How bright the sheet is at each pixel: computed small, since light has no sharp edges."""
    height, width = view.shape
    side = 8 if min(view.shape) > 400 else 2
    small = (height // side + 2, width // side + 2)
    y, x = np.mgrid[-1 : 1 : small[0] * 1j, -1 : 1 : small[1] * 1j].astype(np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    kind = str(rng.choice(["even", "gradient", "shadow", "lamp"], p=[0.35, 0.25, 0.28, 0.12]))
    slope = rng.uniform(0.0, 0.08) if kind == "even" else rng.uniform(0.08, 0.28)
    light = 1 - slope * (1 + np.cos(direction) * x + np.sin(direction) * y) / 1.2
    light *= 1 - rng.uniform(0, 0.14) * (x * x + y * y) / 2
    if kind == "shadow":
        light *= 1 - rng.uniform(0.2, 0.48) * _shadow(rng, small)
    if kind == "lamp":
        cx, cy, spread = *rng.uniform(-1, 1, 2), rng.uniform(0.5, 1.3)
        light *= rng.uniform(0.45, 0.7) + 0.5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / spread**2)
    if rng.random() < 0.12 and surface.endswith("paper"):
        # A fold: each side of it leans another way.
        angle, at = rng.uniform(0, np.pi), rng.uniform(-0.7, 0.7)
        beyond = np.cos(angle) * x + np.sin(angle) * y - at
        light *= 1 + rng.uniform(0.02, 0.08) * np.tanh(beyond * 30) - 0.04 * np.exp(-((beyond * 60) ** 2))
    full = cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)
    if surface == "whiteboard" and rng.random() < 0.6:
        full += np.float32(rng.uniform(0.1, 0.4)) * _glare(rng, view, field)
    return kind, np.asarray(full, np.float32)


def _shadow(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """The shadow of a telephone or a hand: which comes from a side, with soft edges."""
    height, width = shape
    canvas = np.zeros(shape, np.float32)
    middle = np.array([width, height]) / 2
    angle = rng.uniform(0, 2 * np.pi)
    out = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-out[1], out[0]])
    size = float(max(shape))
    tip = middle + out * size * rng.uniform(-0.3, 0.45) + across * size * rng.uniform(-0.3, 0.3)
    base, top = size * rng.uniform(0.15, 0.5), size * rng.uniform(0.1, 0.35)
    if rng.random() < 0.5:
        corners = [tip - across * top, tip + across * top, tip + out * 2 * size + across * base]
        corners.append(tip + out * 2 * size - across * base)
        cv2.fillPoly(canvas, [np.rint(np.array(corners)).astype(np.int32)], 1.0)
    else:
        for finger in range(4):
            start = tip + across * top * (finger - 1.5) / 1.5 + out * size * rng.uniform(0, 0.12)
            end = tip + out * 1.5 * size + across * base * (finger - 1.5) / 1.5
            ends = [(round(p[0]), round(p[1])) for p in (start, end)]
            cv2.line(canvas, ends[0], ends[1], 1.0, max(1, round(top * rng.uniform(0.55, 0.85))))
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), max(1.8, size * log_uniform(rng, 0.008, 0.06))), np.float32)


def _glare(rng: np.random.Generator, view: View, field: Floats) -> Floats:
    """What a lamp does to a glossy board: beside the digit rather than over it."""
    height, width = view.shape
    y, x = np.mgrid[0:height:4, 0:width:4].astype(np.float32)
    cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    spread = rng.uniform(0.08, 0.2) * max(view.shape)
    spot = np.exp(-(((x - cx) / spread) ** 2 + ((y - cy) / spread / rng.uniform(0.5, 1)) ** 2))
    full = cv2.resize(spot, (width, height), interpolation=cv2.INTER_LINEAR)
    away = np.clip(field / np.float32(0.15 * view.scale), 0.15, 1)
    return np.asarray(full * cv2.resize(cv2.blur(away, (31, 31)), (width, height)), np.float32)
