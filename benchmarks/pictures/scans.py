"""Digits on forms and sheets, as flat-bed scanners and copiers see them."""

from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.pictures import files
from benchmarks.pictures.pens import BROADEST, PENS, line_name, log_uniform, pressure, size_name
from benchmarks.pictures.strokes import Bytes, Floats, Matrix, Strokes
from benchmarks.pictures.textures import noise

_PENS = {"blue ballpoint": 0.3, "black ballpoint": 0.25, "gel pen": 0.15, "pencil": 0.15, "marker": 0.15}

# Of the printed form.
_FORM_COLOURS = ((60, 60, 64), (120, 120, 124), (150, 170, 205), (235, 165, 110), (130, 185, 140))

# Narrower strokes break up where a scan has two colours only.
_LEAST_STROKE_PIXELS = 1.6


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sheet:
    """What lies on the glass; shares are float32 [height, width], colours float32 [3].

    Attributes:
        paper: The paper's colour.
        ink_colour: The pen's.
        ink: Share of it at each pixel.
        form_colour: That of what is printed.
        form: Share of it.
        behind: Share of the light that is lost to what is written on the back, if anything is.
        dust: Share of it.
        edge: Factor of brightness: the shadow where the sheet ends.
    """

    paper: Floats
    ink_colour: Floats
    ink: Floats
    form_colour: Floats
    form: Floats
    behind: Floats | None
    dust: Floats
    edge: Floats


def scan(rng: np.random.Generator, strokes: Strokes) -> tuple[bytes, dict[str, str]]:
    """A scan as a file, and what it is of."""
    name = str(rng.choice(list(_PENS), p=list(_PENS.values())))
    pen = PENS[name]
    depth = str(rng.choice(["bilevel", "grey", "colour"], p=[0.28, 0.36, 0.36]))
    dpi = int(rng.choice([100, 150, 200, 300], p=[0.15, 0.25, 0.3, 0.3]))
    mm = dpi / 25.4
    digit_mm = max(log_uniform(rng, *pen.digit_mm), 28 / mm)
    scale = digit_mm * mm
    shape = _shape(rng, scale, log_uniform(rng, 0.12, 0.8))
    width = np.clip(rng.uniform(*pen.width_mm) / digit_mm, _LEAST_STROKE_PIXELS / scale, BROADEST)
    stroke = strokes.line(float(width)) * scale
    skew = np.radians(rng.normal(0, 1.2))
    angle = skew + np.radians(rng.triangular(-8, 0, 8))
    matrix, low, high = _place(rng, strokes, shape, scale, stroke, angle)
    field = strokes.field(matrix, shape, width=float(width), change=pressure(rng, strokes, 0.12))

    paper = np.array([rng.uniform(228, 255)] * 3, np.float32) - np.array([0, 1, 3], np.float32) * rng.uniform(0, 4)
    ink_colour = np.array(pen.inks[rng.integers(len(pen.inks))], np.float32)
    form_colour = np.array(_FORM_COLOURS[rng.integers(2 if depth == "bilevel" else len(_FORM_COLOURS))], np.float32)
    ink = _ink(rng, field, pen.opacity, pen.grain, stroke)
    contrast = float(np.median(ink[field < 0])) * (1 - ink_colour.mean() / paper.mean())
    form_name, form = _form(rng, shape, low, high, stroke, mm, skew)
    if form_name == "squared":
        # Nobody would write on squares that are stronger than the pen.
        form *= np.float32(min(1.0, 0.6 * contrast / (1 - form_colour.mean() / paper.mean())))
    dust_name, dust = _dust(rng, shape, mm, field)
    sheet = _Sheet(
        paper=paper.astype(np.float32),
        ink_colour=ink_colour,
        ink=ink,
        form_colour=form_colour,
        form=form,
        behind=_bleed_through(rng, strokes, shape, scale),
        dust=dust,
        edge=_edge(rng, shape, low, high),
    )
    inverted = rng.random() < 0.04
    threshold = round(float(paper.mean()) * (1 - contrast * rng.uniform(0.35, 0.6)))
    data, kind = files.scanner(
        rng, _scanned(rng, sheet, dpi), depth=depth, threshold=threshold, dpi=dpi, inverted=inverted
    )
    return data, {
        "pen": name,
        "form": form_name,
        "polarity": "light on dark" if inverted else "dark on light",
        "depth": depth,
        "dpi": str(dpi),
        "dust": dust_name,
        "back": "clean" if sheet.behind is None else "shines through",
        "edge": "dark" if sheet.edge.min() < 0.99 else "none",
        "digit": size_name(scale / min(shape)),
        "line": line_name(stroke / scale),
        "file": kind,
    }


def _scanned(rng: np.random.Generator, sheet: _Sheet, dpi: int) -> Bytes:
    shape = sheet.ink.shape
    texture = noise(rng, shape, 1.3) * np.float32(rng.uniform(0.5, 3.5))
    texture += noise(rng, shape, max(4.0, 0.3 * dpi)) * np.float32(rng.uniform(0, 2))
    channels = []
    for c in range(3):
        channel = texture + sheet.paper[c]
        if sheet.behind is not None:
            channel -= sheet.behind * channel
        channel += sheet.form * (sheet.form_colour[c] - channel)
        channel += sheet.ink * (sheet.ink_colour[c] - channel)
        channel += sheet.dust * (60 - channel)
        channels.append(np.clip(channel * sheet.edge, 0, 255).astype(np.uint8))
    return np.asarray(cv2.merge(channels), np.uint8)


def _shape(rng: np.random.Generator, digit_pixels: float, share: float) -> tuple[int, int]:
    """Height and width: a cutting of a sheet, of any proportions, now and then a whole one of A4 at 200 dpi."""
    most = 1654.0 if rng.random() < 0.05 else 900.0
    short = max(min(digit_pixels / share, most), 48.0, 1.3 * digit_pixels)
    sides = (round(short), round(short * rng.uniform(1, 1.7)))
    return sides if rng.random() < 0.5 else sides[::-1]


def _place(
    rng: np.random.Generator, strokes: Strokes, shape: tuple[int, int], scale: float, stroke: float, angle: float
) -> tuple[Matrix, Matrix, Matrix]:
    """From the unit of strokes to pixels, and the corners of the digit's box there."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = scale * np.array([[cos, -sin], [sin, cos]])
    points = strokes.points @ turn.T
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.array(shape[::-1], float)
    room = np.maximum(0, size - (high - low) - stroke - 0.1 * scale) / 2
    shift = size / 2 + room * rng.uniform(-1, 1, 2) - (low + high) / 2
    return np.r_[np.c_[turn, shift], [[0, 0, 1]]], low + shift, high + shift


def _ink(rng: np.random.Generator, field: Floats, opacity: tuple[float, float], grain: float, stroke: float) -> Floats:
    edge = np.float32(rng.uniform(1.0, 1.9))
    ink = np.clip(0.5 - field / edge, 0, 1) * np.float32(rng.uniform(*opacity) * min(1.0, 0.45 + 0.3 * stroke))
    if grain:
        ink *= np.clip(1 - np.float32(0.5 * grain) * (noise(rng, field.shape, 0.14 * stroke) + np.float32(0.2)), 0.2, 1)
    return np.asarray(ink, np.float32)


def _form(
    rng: np.random.Generator, shape: tuple[int, int], low: Matrix, high: Matrix, stroke: float, mm: float, skew: float
) -> tuple[str, Floats]:
    """What is printed around the digit."""
    kind = str(
        rng.choice(["none", "box", "comb", "line", "touched box", "squared"], p=[0.4, 0.24, 0.1, 0.1, 0.08, 0.08])
    )
    canvas = np.zeros(shape, np.uint8)
    if kind == "none":
        return kind, canvas.astype(np.float32)
    side = float(max(high - low))
    gap = stroke / 2 + side * rng.uniform(0.08, 0.4, 4)
    if kind == "touched box":
        # A digit that was written too large for its field reaches over one side of it.
        gap[rng.integers(4)] = -side * rng.uniform(0.02, 0.1)
    middle = (low + high) / 2
    cos, sin = np.cos(skew), np.sin(skew)
    rotation = np.array([[cos, sin], [-sin, cos]])
    left, top = low - gap[:2]
    right, bottom = high + gap[2:]
    # The number one is narrow, its field is not.
    wide = max(0.0, 0.6 * (bottom - top) - (right - left)) / 2
    left, right = left - wide, right + wide
    thickness = max(1, round(rng.uniform(0.15, 0.45) * mm))
    if kind == "squared":
        thickness = max(1, round(min(0.2 * mm, 0.5 * stroke)))

    def line(*points: tuple[float, float]) -> None:
        path = (np.array(points) - middle) @ rotation + middle
        cv2.polylines(canvas, [np.rint(path * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)

    far = 2.0 * max(shape)
    if kind == "line":
        line((left - rng.uniform(0, 2) * side, bottom), (right + rng.uniform(0, 2) * side, bottom))
    elif kind == "squared":
        step = max(12.0, 5 * mm)
        for at in np.arange(-far, far, step) + rng.uniform(0, step):
            line((middle[0] + at, -far), (middle[0] + at, far))
            line((-far, middle[1] + at), (far, middle[1] + at))
    else:
        fields = range(-int(rng.integers(1, 4)), int(rng.integers(2, 5))) if kind == "comb" else range(1)
        for number in fields:
            offset = number * (right - left)
            corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
            line(*((x + offset, y) for x, y in corners))
    return kind, canvas * np.float32(rng.uniform(0.6, 1) / 255)


def _bleed_through(rng: np.random.Generator, strokes: Strokes, shape: tuple[int, int], scale: float) -> Floats | None:
    """What is written on the sheet's back: mirrored, pale and diffuse."""
    if rng.random() > 0.2:
        return None
    behind = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        size = scale * rng.uniform(0.6, 1.4)
        mirrored = np.array([[-size, 0, rng.uniform(0, shape[1])], [0, size, rng.uniform(0, shape[0])], [0, 0, 1]])
        field = strokes.field(mirrored, shape, width=0.06)
        behind = np.maximum(behind, np.clip(0.5 - field / 4, 0, 1))
    return behind * np.float32(rng.uniform(0.03, 0.13))


def _dust(rng: np.random.Generator, shape: tuple[int, int], mm: float, field: Floats) -> tuple[str, Floats]:
    """Dust on the glass: small against any stroke."""
    kind = str(rng.choice(["none", "some", "much"], p=[0.5, 0.35, 0.15]))
    canvas = np.zeros(shape, np.uint8)
    area_cm2 = shape[0] * shape[1] / (10 * mm) ** 2
    count = {"none": 0, "some": 3 + int(area_cm2 * 0.3), "much": 15 + int(area_cm2 * 2)}[kind]
    for x, y, size in zip(
        rng.uniform(0, shape[1], min(count, 900)),
        rng.uniform(0, shape[0], min(count, 900)),
        rng.exponential(0.09, min(count, 900)),
        strict=True,
    ):
        radius = max(5, round(min(float(size), 0.3) * mm * 16))
        cv2.circle(canvas, (round(x * 16), round(y * 16)), radius, 255, -1, cv2.LINE_AA, 4)
    if kind == "much":
        # A hair.
        start, curve = rng.uniform(0, 1, 2) * shape[::-1], rng.normal(0, 1.5 * mm, (6, 2)).cumsum(axis=0)
        path = np.rint((start + curve) * 16).astype(np.int32)
        if (field[_inside(path // 16, shape)] > 3).all():
            cv2.polylines(canvas, [path], False, 200, 1, cv2.LINE_AA, 4)
    return kind, canvas * np.float32(0.9 / 255)


def _inside(points: Matrix, shape: tuple[int, int]) -> tuple[Matrix, Matrix]:
    kept = ((points >= 0) & (points < shape[::-1])).all(axis=1)
    return points[kept, 1], points[kept, 0]


def _edge(rng: np.random.Generator, shape: tuple[int, int], low: Matrix, high: Matrix) -> Floats:
    """The dark strip where the sheet ends, on some scans; a factor of brightness."""
    light = np.ones(shape, np.float32)
    if rng.random() < 0.12:
        side = int(rng.integers(4))
        room = (low[1], shape[1] - high[0], shape[0] - high[1], low[0])[side]
        wide = int(max(0, room - 0.1 * max(high - low)) * rng.uniform(0.1, 0.8))
        # Turned so that the side is the first row, and back.
        np.rot90(light, side)[:wide] = rng.uniform(0.1, 0.75)
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), 2.0), np.float32)
    return light
