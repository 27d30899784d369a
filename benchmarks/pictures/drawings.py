"""Digits that were drawn with a mouse, a finger or a pen on a screen, as programs export them."""

import cv2
import numpy as np

from benchmarks.pictures import files
from benchmarks.pictures.pens import BROADEST, line_name, log_uniform, pressure, size_name
from benchmarks.pictures.strokes import Bytes, Floats, Matrix, Strokes

# Colours of palettes that everybody has, and the white and black of most drawings.
_PALETTE = (
    (0, 0, 0),
    (255, 255, 255),
    (237, 28, 36),
    (255, 127, 39),
    (255, 242, 0),
    (34, 177, 76),
    (0, 162, 232),
    (63, 72, 204),
    (163, 73, 164),
    (136, 0, 21),
    (127, 127, 127),
    (195, 195, 195),
    (18, 18, 18),
    (30, 30, 46),
    (44, 62, 80),
    (250, 250, 245),
)

# Distance in CIELAB below which two colours are not told apart at a glance; of thin lines, which eyes see by their
# brightness, also the difference of that.
_LEAST_CONTRAST = 45
_LEAST_CONTRAST_THIN = 80
_THIN_PIXELS = 4


def drawing(rng: np.random.Generator, strokes: Strokes) -> tuple[bytes, dict[str, str]]:
    """A drawing as a file, and what it is of."""
    shape = _shape(rng)
    share = float(rng.uniform(0.2, 0.9))
    scale = share * min(shape)
    brush = str(rng.choice(["round", "pressure", "flat", "mouse"], p=[0.5, 0.2, 0.12, 0.18]))
    smooth = bool(rng.random() < 0.68)
    # From a line of one pixel to a broad brush; what is thinner than a pixel has gaps without smoothing.
    least = 1.2 if smooth else 1.7
    width = max(least, min(log_uniform(rng, 1, 60), BROADEST * scale))
    line = strokes.line(width / scale)
    if brush == "mouse":
        strokes = _unsteady(rng, strokes)
    matrix, scale = _place(rng, strokes, shape, scale, line * scale)
    change = _change(rng, brush, strokes)
    # No brush draws lines of less than a pixel.
    change = None if change is None else np.maximum(change, np.float32(least / (line * scale)))
    field = strokes.field(matrix, shape, width=line, change=change)
    cover = np.clip(0.5 - field, 0, 1) if smooth else (field < 0).astype(np.float32)

    theme, paper, colour = _colours(rng, thin=line * scale < _THIN_PIXELS)
    back = str(rng.choice(["plain", "grid", "frame", "gradient"], p=[0.78, 0.09, 0.07, 0.06]))
    if theme == "transparent":
        back = "plain"
    canvas = _canvas(rng, back, paper, colour, shape)
    picture: Bytes = np.rint(canvas + cover[..., None] * (colour - canvas)).astype(np.uint8)
    if theme == "transparent":
        # What programs leave in pixels that nobody sees: the brush's own colour, black, or white.
        hidden = (colour, np.zeros(3), np.full(3, 255))[rng.integers(3)]
        shown = np.where(cover[..., None] > 0, colour, hidden)
        picture = np.concatenate([shown, np.rint(cover[..., None] * 255)], axis=-1).astype(np.uint8)
    data, kind = files.program(rng, picture)
    return data, {
        "brush": brush,
        "edges": "smooth" if smooth else "stepped",
        "theme": theme,
        "background": back,
        "polarity": "light on dark" if colour.mean() > paper.mean() else "dark on light",
        "contrast": "of colour only" if abs(_grey(colour) - _grey(paper)) < 50 else "of brightness",
        "canvas": "small" if min(shape) < 200 else "medium" if min(shape) < 500 else "large",
        "digit": size_name(share),
        "line": line_name(line),
        "file": kind,
    }


def _shape(rng: np.random.Generator) -> tuple[int, int]:
    sides = [round(log_uniform(rng, 100, 1000))]
    sides.append(sides[0] if rng.random() < 0.5 else round(min(1000, sides[0] * rng.uniform(1, 1.8))))
    return (sides[0], sides[1]) if rng.random() < 0.7 else (sides[1], sides[0])


def _place(
    rng: np.random.Generator, strokes: Strokes, shape: tuple[int, int], scale: float, width: float
) -> tuple[Matrix, float]:
    """From the unit of strokes to pixels, and how many it has there."""
    angle = np.radians(rng.triangular(-12, 0, 12))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = scale * np.array([[cos, -sin], [sin, cos]])
    points = strokes.points @ turn.T
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.array(shape[::-1], float)
    fits = min(1.0, float(((size - width - 4) / (high - low + 1)).min()))
    turn, low, high = turn * fits, low * fits, high * fits
    room = np.maximum(0, size - (high - low) - width - 4) / 2
    shift = size / 2 + room * rng.uniform(-1, 1, 2) * rng.uniform(0, 1) - (low + high) / 2
    return np.r_[np.c_[turn, shift], [[0, 0, 1]]], scale * fits


def _unsteady(rng: np.random.Generator, strokes: Strokes) -> Strokes:
    """The same path, drawn with a mouse: it wavers."""
    points = strokes.points.copy()
    for _ in range(4):
        direction, phase = rng.normal(0, 14, 2), rng.uniform(0, 6.3)
        wave = np.sin(points @ direction + phase)[:, None] * rng.normal(0, 0.008, 2)
        points = points + wave.astype(np.float32)
    return Strokes(
        points=points.astype(np.float32),
        links=strokes.links,
        surplus=strokes.surplus,
        radius=strokes.radius,
        least_radius=strokes.least_radius,
    )


def _change(rng: np.random.Generator, brush: str, strokes: Strokes) -> Floats | None:
    """Factor of the line's width at each point."""
    if brush == "pressure":
        return pressure(rng, strokes, 0.5)
    if brush == "flat":
        # A broad nib: full width across it, a third along it.
        nib = rng.uniform(0, np.pi)
        run = np.zeros_like(strokes.points)
        along = strokes.points[strokes.links[:, 1]] - strokes.points[strokes.links[:, 0]]
        doubled = np.arctan2(along[:, 1], along[:, 0]) * 2
        # Directions without a sense are averaged as doubled angles.
        for end in (0, 1):
            np.add.at(run, strokes.links[:, end], np.stack([np.cos(doubled), np.sin(doubled)], axis=1))
        angle = np.arctan2(run[:, 1], run[:, 0]) / 2
        return np.asarray(0.35 + 0.75 * np.abs(np.sin(angle - nib)), np.float32)
    return None


def _colours(rng: np.random.Generator, *, thin: bool) -> tuple[str, Floats, Floats]:
    """The theme, the background's colour and the brush's, which a human tells apart."""
    theme = str(rng.choice(["paper", "dark mode", "colours", "transparent"], p=[0.36, 0.22, 0.24, 0.18]))
    while True:
        paper, ink = (_any_colour(rng) for _ in range(2))
        if theme == "paper":
            paper = np.full(3, rng.choice([255, 255, 255, 250, 245]), np.float32)
        if theme == "dark mode":
            paper = np.full(3, rng.choice([0, 0, 18, 30, 43]), np.float32)
        if theme in ("paper", "dark mode") and rng.random() < 0.5:
            ink = np.full(3, 0 if theme == "paper" else 255, np.float32)
        if theme == "transparent":
            # Whoever drew it saw it on the page of an editor, white or dark.
            paper = np.full(3, rng.choice([255, 255, 30]), np.float32)
        if thin and abs(_grey(paper) - _grey(ink)) < _LEAST_CONTRAST_THIN:
            continue
        if _distance(paper, ink) > _LEAST_CONTRAST:
            return theme, paper, ink


def _any_colour(rng: np.random.Generator) -> Floats:
    if rng.random() < 0.6:
        return np.array(_PALETTE[rng.integers(len(_PALETTE))], np.float32)
    return rng.integers(0, 256, 3).astype(np.float32)


def _distance(one: Floats, other: Floats) -> float:
    lab = cv2.cvtColor(np.stack([one, other])[None] / np.float32(255), cv2.COLOR_RGB2LAB)
    return float(np.linalg.norm(lab[0, 0] - lab[0, 1]))


def _grey(colour: Floats) -> float:
    return float(colour @ np.array([0.299, 0.587, 0.114], np.float32))


def _canvas(rng: np.random.Generator, back: str, paper: Floats, ink: Floats, shape: tuple[int, int]) -> Floats:
    canvas = np.broadcast_to(paper, (*shape, 3)).astype(np.float32)
    # Lines and shades stay much nearer to the background than the brush does.
    faint = paper + (np.float32(110) - paper) * np.float32(rng.uniform(0.1, 0.3))
    if back == "grid":
        step = max(8, round(min(shape) * rng.uniform(0.04, 0.12)))
        canvas[::step, :] = faint
        canvas[:, ::step] = faint
    if back == "frame":
        wide = int(rng.integers(1, 4))
        inner = canvas[wide:-wide, wide:-wide].copy()
        canvas[:] = ink if rng.random() < 0.5 else faint
        canvas[wide:-wide, wide:-wide] = inner
    if back == "gradient":
        ramp = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
        canvas += ramp * (faint - paper)
    return canvas
