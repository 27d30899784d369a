"""Photographs of handwritten digits, as telephones take them."""

from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.pictures import camera, files, lights
from benchmarks.pictures.camera import View
from benchmarks.pictures.pens import (
    BROADEST,
    PENS,
    SURFACES,
    Pen,
    Surface,
    line_name,
    log_uniform,
    mixed,
    pressure,
    size_name,
)
from benchmarks.pictures.strokes import Bytes, Floats, Matrix, Strokes
from benchmarks.pictures.textures import fractal, noise

# How often each is photographed.
_SHARES = {
    "blue ballpoint": 0.17,
    "black ballpoint": 0.13,
    "red ballpoint": 0.06,
    "gel pen": 0.1,
    "pencil": 0.14,
    "marker": 0.16,
    "chalk": 0.08,
    "white pen": 0.06,
    "whiteboard marker": 0.1,
}

# Of a ruling.
_LINES = ((120, 150, 205), (150, 150, 158), (150, 130, 190))

# Strokes of fewer pixels cannot be seen in a picture that was blurred and compressed.
_LEAST_STROKE_PIXELS = 1.8


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """What is before the camera; shares and factors are float32 [height, width], colours float32 [3].

    Attributes:
        paper: The surface's colour.
        ink_colour: The pen's.
        ink: Share of it at each pixel.
        lines_colour: That of the ruling.
        lines: Share of it, if there is any.
        light: Factor of brightness: light and texture.
        sheet: Share of the sheet, if its border is to be seen.
    """

    paper: Floats
    ink_colour: Floats
    ink: Floats
    lines_colour: Floats
    lines: Floats | None
    light: Floats
    sheet: Floats | None


def photo(rng: np.random.Generator, strokes: Strokes) -> tuple[bytes, dict[str, str]]:
    """A photograph as a file, and what it is of."""
    name = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    pen = PENS[name]
    surface_name = str(rng.choice(pen.surfaces, p=_falling(len(pen.surfaces))))
    surface = SURFACES[surface_name]
    shape = camera.frame(rng)
    share = float(rng.uniform(0.15, 0.8))
    # A sheet shows around its digit.
    digit_mm = min(log_uniform(rng, *pen.digit_mm), 0.8 * min(surface.size_mm))
    view = camera.aim(rng, strokes, shape, share, digit_mm)
    width = float(np.clip(rng.uniform(*pen.width_mm) / digit_mm, _LEAST_STROKE_PIXELS / view.scale, BROADEST))
    field = strokes.field(view.matrix, shape, width=width, change=pressure(rng, strokes, 0.12))
    stroke = strokes.line(width) * view.scale
    focus, blur = camera.focus(rng, stroke, view)
    light_name, light = lights.light(rng, surface_name, view, field)
    ruling, lines = _ruling(rng, surface, view, blur)
    scene = _Scene(
        paper=mixed(rng, surface.colours),
        ink_colour=np.array(pen.inks[rng.integers(len(pen.inks))], np.float32),
        ink=_ink(rng, pen, field, view, stroke, blur),
        lines_colour=np.array(_LINES[rng.integers(len(_LINES))], np.float32),
        lines=lines,
        light=light * _grain(rng, surface_name, surface, view),
        sheet=_border(rng, surface, strokes, view),
    )
    picture = _exposed(rng, scene, view)
    if focus == "shaken":
        picture = camera.shake(rng, picture, stroke)
    data, orientation, kind = files.camera(rng, picture)
    return data, {
        "pen": name,
        "surface": surface_name,
        "ruling": ruling,
        "polarity": "light on dark" if scene.ink_colour.mean() > scene.paper.mean() else "dark on light",
        "light": light_name,
        "focus": focus,
        "edge": "none" if scene.sheet is None else "in the picture",
        "digit": size_name(share),
        "line": line_name(strokes.line(width)),
        "orientation": orientation,
        "file": kind,
    }


def _exposed(rng: np.random.Generator, scene: _Scene, view: View) -> Bytes:
    """What the sensor makes of a scene."""
    contrast = float(np.abs(scene.paper - scene.ink_colour).max())
    # Cameras choose their exposure by what fills the picture.
    exposure = rng.uniform(0.72, 1.0) if scene.paper.mean() > 120 else rng.uniform(0.85, 1.35)
    gains = camera.white_balance(rng) * np.float32(exposure)
    noise_of_brightness, noise_of_colours = camera.sensor_noise(rng, view, contrast * exposure)
    desk, desk_grain = _desk(rng, view.shape) if scene.sheet is not None else (None, None)
    channels = []
    for c in range(3):
        channel = np.full(view.shape, scene.paper[c], np.float32)
        if scene.lines is not None:
            channel += scene.lines * min(scene.lines_colour[c] - scene.paper[c], 0)
        channel += scene.ink * (scene.ink_colour[c] - channel)
        channel *= scene.light
        if scene.sheet is not None and desk is not None:
            channel += (1 - scene.sheet) * (desk[c] * desk_grain - channel)
        channel *= gains[c]
        channel += noise_of_brightness
        channel += noise_of_colours[c]
        channels.append(np.clip(channel, 0, 255).astype(np.uint8))
    return np.asarray(cv2.merge(channels), np.uint8)


def _falling(count: int) -> list[float]:
    """Shares of `count` things, the first the most frequent."""
    weights = 0.55 ** np.arange(count)
    return list(weights / weights.sum())


def _coverage(field: Floats, blur: float) -> Floats:
    """Share of ink at each pixel, where edges are `blur` pixels wide."""
    share = np.clip(0.5 - field / np.float32(blur), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _ink(rng: np.random.Generator, pen: Pen, field: Floats, view: View, stroke: float, blur: float) -> Floats:
    opacity = np.float32(rng.uniform(*pen.opacity))
    if pen.grain:
        # A pencil rubs off on the tips of the fibres, chalk in crumbs.
        tooth = fractal(rng, view.shape, 0.18 * stroke * pen.grain, 3) / np.float32(1.2)
        field = field + tooth * np.float32(0.08 * stroke * pen.grain**2)
    # A line that is narrower than its blur loses strength with it.
    ink = _coverage(field, blur) * opacity * np.float32(min(1.0, 0.35 + stroke / (blur + 0.5)))
    if pen.streaks:
        ink *= np.clip(1 - np.float32(pen.streaks) * noise(rng, view.shape, 0.12 * view.scale), 0.4, 1.1)
    if pen.grain:
        ink *= np.clip(1 - np.float32(pen.grain * 0.55) * (tooth + np.float32(0.3)), 0.25, 1)
    return np.asarray(np.minimum(ink, 1), np.float32)


def _ruling(rng: np.random.Generator, surface: Surface, view: View, blur: float) -> tuple[str, Floats | None]:
    kind = str(rng.choice(["none", "lined", "squared", "dotted"], p=[0.44, 0.26, 0.24, 0.06]))
    step_mm = {"none": 0.0, "lined": rng.uniform(7, 10), "squared": rng.choice([4.0, 5.0]), "dotted": 5.0}[kind]
    if kind == "none" or not surface.ruled or step_mm * view.mm < 7:
        return "none", None
    reach = 1.5 * np.hypot(*view.shape) / view.mm
    steps = np.arange(-reach, reach, step_mm) + rng.uniform(0, step_mm)
    others = np.arange(-reach, reach, step_mm) + rng.uniform(0, step_mm)
    tilt = np.radians(rng.normal(0, 2))
    cos, sin = np.cos(tilt), np.sin(tilt)
    rotation = np.array([[cos, sin], [-sin, cos]])
    canvas = np.zeros(view.shape, np.uint8)
    width_mm = rng.uniform(0.12, 0.3)
    thickness = max(1, round(width_mm * view.mm))
    strength = rng.uniform(0.35, 0.9) * min(1.0, 0.4 + width_mm * view.mm / 1.5)
    if kind == "dotted":
        dots = np.stack(np.meshgrid(others, steps), axis=-1).reshape(-1, 2) @ rotation
        for x, y in _inside(view.project(dots), view):
            cv2.circle(canvas, (round(x * 16), round(y * 16)), max(8, round(5 * view.mm)), 255, -1, cv2.LINE_AA, 4)
    else:
        across = np.array([-reach, reach])
        ends = [np.stack([across, np.full(2, y)], axis=1) for y in steps]
        if kind == "squared":
            ends += [np.stack([np.full(2, x), across], axis=1) for x in others]
        _draw_lines(canvas, ends, rotation, view, thickness)
    soft = cv2.GaussianBlur(canvas, (0, 0), 0.25 * blur) if blur > 2 else canvas
    return kind, soft * np.float32(strength / 255)


def _draw_lines(canvas: Bytes, ends: list[Matrix], rotation: Matrix, view: View, thickness: int) -> None:
    for end in ends:
        # Points far behind the camera would project to the other side; the ends are cut where that begins.
        line = (np.linspace(0, 1, 17)[:, None] * (end[1] - end[0]) + end[0]) @ rotation
        depth = np.c_[line * view.mm / view.scale, np.ones(len(line))] @ view.matrix[2]
        seen = view.project(line[depth > 0.2])
        if len(seen) > 1:
            cv2.polylines(canvas, [np.rint(seen * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)


def _inside(points: Matrix, view: View) -> Matrix:
    height, width = view.shape
    kept = (points > 0).all(axis=1) & (points < [width, height]).all(axis=1)
    return points[kept][:4000]


def _border(rng: np.random.Generator, surface: Surface, strokes: Strokes, view: View) -> Floats | None:
    """Where the sheet ends, if that can be seen: share of it at each pixel."""
    height, width = view.shape
    box = view.project(strokes.points * view.scale / view.mm)
    small = surface.size_mm[0] < 100
    if rng.random() > (0.75 if small else 0.3):
        return None
    half = np.ptp(strokes.points, axis=0) / 2 * view.scale / view.mm
    # The sheet lies around the digit: at least this far from it on every side, and farther where it is not to be seen.
    gap = 0.25 * half.max()
    reach = 2 * np.hypot(height, width) / view.mm
    near = rng.random(4) < (0.7 if small else 0.35)
    if not near.any():
        near[rng.integers(4)] = True
    at = [gap + log_uniform(rng, 0.05, 1.2) * 0.5 * min(view.shape) / view.mm if n else reach for n in near]
    left, top, right, bottom = -half[0] - at[0], -half[1] - at[1], half[0] + at[2], half[1] + at[3]
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    outline = np.concatenate([np.linspace(a, b, 9)[:-1] for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
    # What would lie behind the camera is brought before it.
    depth = np.c_[outline * view.mm / view.scale, np.ones(len(outline))] @ view.matrix[2]
    outline = outline[depth > 0.15]
    seen = np.rint(np.clip(view.project(outline), -20_000, 20_000) * 16).astype(np.int32)
    canvas = np.zeros(view.shape, np.uint8)
    cv2.fillPoly(canvas, [cv2.convexHull(seen)], 255, cv2.LINE_AA, 4)
    inner = np.clip(np.rint(box).astype(int), 0, [width - 1, height - 1])
    if canvas.all() or not canvas[inner[:, 1], inner[:, 0]].all():
        return None
    return canvas * np.float32(1 / 255)


def _desk(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """The colour of what lies beneath the sheet, and its texture."""
    colours = (
        (122, 84, 54),
        (176, 134, 92),
        (70, 50, 38),
        (60, 62, 66),
        (186, 184, 180),
        (30, 30, 34),
        (110, 112, 118),
    )
    colour = np.array(colours[rng.integers(len(colours))], np.float32) * np.float32(rng.uniform(0.8, 1.15))
    long = rng.uniform(60, 300)
    flat = rng.random() < 0.4
    texture = noise(rng, shape, 9, 9) if flat else noise(rng, shape, long, 3) + noise(rng, shape, 2 * long, 12)
    return colour, 1 + texture * np.float32(0.03 if flat else 0.07)


def _grain(rng: np.random.Generator, name: str, surface: Surface, view: View) -> Floats:
    """The surface's own texture, as a factor of its brightness."""
    grain = noise(rng, view.shape, max(1.0, 0.15 * view.mm)) * np.float32(surface.grain)
    grain += noise(rng, view.shape, max(4.0, 4 * view.mm)) * np.float32(surface.grain * 0.35)
    if name.endswith("board") and name not in ("whiteboard", "cardboard"):
        # Chalk that was wiped away.
        wiped = fractal(rng, view.shape, 0.5 * max(view.shape), 4)
        along = noise(rng, view.shape, 0.4 * max(view.shape), max(2.0, 0.012 * max(view.shape)))
        grain += np.clip(wiped + 0.6 * along, -0.6, 2.5) * np.float32(rng.uniform(0.02, 0.14))
    if name in ("recycled paper", "cardboard"):
        fibres = np.zeros(view.shape, np.uint8)
        for x, y, angle in zip(
            rng.uniform(0, view.shape[1], 150),
            rng.uniform(0, view.shape[0], 150),
            rng.uniform(0, 6.3, 150),
            strict=True,
        ):
            long = max(3.0, 1.2 * view.mm)
            end = (round(x + long * np.cos(angle)), round(y + long * np.sin(angle)))
            cv2.line(fibres, (round(x), round(y)), end, 255, 1, cv2.LINE_AA)
        grain -= fibres * np.float32(0.12 / 255)
    grain += 1
    return grain
