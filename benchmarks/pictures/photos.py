"""Photographs of handwritten digits, as telephones take them."""

from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.pictures import files
from benchmarks.pictures.pens import PENS, SURFACES, Pen, Surface, line_name, log_uniform, mixed, pressure, size_name
from benchmarks.pictures.strokes import Bytes, Floats, Matrix, Strokes, scale
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

# Strokes of fewer pixels cannot be seen in a picture that was blurred and compressed.
_LEAST_STROKE_PIXELS = 1.8

# A broader line than this share of the digit's size would fill its loops.
_BROADEST = 0.15


@dataclass(frozen=True, kw_only=True)
class _View:
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


def photo(rng: np.random.Generator, strokes: Strokes) -> tuple[bytes, dict[str, str]]:
    """A photograph as a file, and what it is of."""
    name = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    pen = PENS[name]
    surface_name = str(rng.choice(pen.surfaces, p=_falling(len(pen.surfaces))))
    surface = SURFACES[surface_name]
    shape = _shape(rng)
    share = float(rng.uniform(0.15, 0.8))
    digit_mm = log_uniform(rng, *pen.digit_mm)
    # A sheet shows: a digit does not fill it.
    digit_mm = min(digit_mm, 0.8 * min(surface.size_mm))
    view = _view(rng, strokes, shape, share, digit_mm)
    width = float(np.clip(rng.uniform(*pen.width_mm) / digit_mm, _LEAST_STROKE_PIXELS / view.scale, _BROADEST))
    field = strokes.field(view.matrix, shape, width=width, change=pressure(rng, strokes, 0.12))
    stroke = strokes.line(width) * view.scale

    focus, blur = _focus(rng, stroke, view)
    ink = _ink(rng, pen, field, view, stroke, blur)
    ruling, lines = _ruling(rng, surface, view, blur)
    border, sheet = _border(rng, surface, strokes, view)
    light_name, light = _light(rng, surface_name, view, field)

    paper, ink_colour = mixed(rng, surface.colours), np.array(pen.inks[rng.integers(len(pen.inks))], np.float32)
    line_colour = np.array([(120, 150, 205), (150, 150, 158), (150, 130, 190)][rng.integers(3)], np.float32)
    grain = _grain(rng, surface_name, surface, view)
    light *= grain
    desk, desk_grain = _desk(rng, view.shape) if sheet is not None else (paper, light)
    balance = _balance(rng)
    exposure = float(rng.uniform(0.72, 1.0)) if paper.mean() > 120 else float(rng.uniform(0.85, 1.35))
    sensor, chroma = _sensor(rng, view, np.abs(paper - ink_colour).max() * exposure)
    channels = []
    for c in range(3):
        channel = np.full(view.shape, paper[c], np.float32)
        if lines is not None:
            channel += lines * (min(line_colour[c], paper[c]) - paper[c])
        channel += ink * (ink_colour[c] - channel)
        channel *= light
        if sheet is not None:
            channel += (1 - sheet) * (desk[c] * desk_grain - channel)
        channel *= balance[c] * exposure
        channel += sensor
        channel += chroma[c]
        channels.append(np.clip(channel, 0, 255).astype(np.uint8))
    picture: Bytes = np.asarray(cv2.merge(channels), np.uint8)
    if focus == "shaken":
        picture = _shake(rng, picture, stroke)
    data, orientation, kind = files.camera(rng, picture)
    return data, {
        "pen": name,
        "surface": surface_name,
        "ruling": ruling,
        "polarity": "light on dark" if ink_colour.mean() > paper.mean() else "dark on light",
        "light": light_name,
        "focus": focus,
        "edge": border,
        "digit": size_name(share),
        "line": line_name(strokes.line(width)),
        "orientation": orientation,
        "file": kind,
    }


def _falling(count: int) -> list[float]:
    """Shares of `count` things, the first the most frequent."""
    weights = 0.55 ** np.arange(count)
    return list(weights / weights.sum())


def _shape(rng: np.random.Generator) -> tuple[int, int]:
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


def _project(matrix: Matrix, points: Matrix) -> Matrix:
    turned = np.c_[points, np.ones(len(points))] @ matrix.T
    return np.asarray(turned[:, :2] / turned[:, 2:])


def _view(rng: np.random.Generator, strokes: Strokes, shape: tuple[int, int], share: float, digit_mm: float) -> _View:
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
    return _View(matrix=matrix, scale=scale(matrix), mm=scale(matrix) / digit_mm, shape=shape)


def _rotation(angle: float) -> Matrix:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _focus(rng: np.random.Generator, stroke_pixels: float, view: _View) -> tuple[str, float]:
    """Name, and how many pixels wide edges are."""
    kind = rng.choice(["sharp", "soft", "defocused", "shaken"], p=[0.5, 0.25, 0.15, 0.1])
    most = min(0.8 * stroke_pixels + 1.5, 0.05 * view.scale + 1.5)
    wide = {"sharp": 1.4, "soft": 0.4 * most + 1, "defocused": most + 1, "shaken": 1.8}[str(kind)]
    return str(kind), max(1.4, float(wide))


def _coverage(field: Floats, blur: float) -> Floats:
    """Share of ink at each pixel, where edges are `blur` pixels wide."""
    share = np.clip(0.5 - field / np.float32(blur), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _ink(rng: np.random.Generator, pen: Pen, field: Floats, view: _View, stroke: float, blur: float) -> Floats:
    opacity = np.float32(rng.uniform(*pen.opacity))
    if pen.grain:
        # A pencil rubs off on the tips of the fibres, chalk in crumbs.
        tooth = fractal(rng, view.shape, 0.18 * stroke * pen.grain, 3) / np.float32(1.2)
        field = field + tooth * np.float32(0.08 * stroke * pen.grain**2)
    # A line that is narrower than its blur loses strength with it.
    ink = _coverage(field, blur) * opacity * np.float32(min(1.0, (0.35 + stroke / (blur + 0.5))))
    if pen.streaks:
        ink *= np.clip(1 - np.float32(pen.streaks) * noise(rng, view.shape, 0.12 * view.scale), 0.4, 1.1)
    if pen.grain:
        ink *= np.clip(1 - np.float32(pen.grain * 0.55) * (tooth + np.float32(0.3)), 0.25, 1)
    return np.minimum(ink, 1, out=ink)


def _ruling(rng: np.random.Generator, surface: Surface, view: _View, blur: float) -> tuple[str, Floats | None]:
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


def _draw_lines(canvas: Bytes, ends: list[Matrix], rotation: Matrix, view: _View, thickness: int) -> None:
    for end in ends:
        # Points far behind the camera would project to the other side; the ends are cut where that begins.
        line = (np.linspace(0, 1, 17)[:, None] * (end[1] - end[0]) + end[0]) @ rotation
        depth = np.c_[line * view.mm / view.scale, np.ones(len(line))] @ view.matrix[2]
        seen = view.project(line[depth > 0.2])
        if len(seen) > 1:
            cv2.polylines(canvas, [np.rint(seen * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)


def _inside(points: Matrix, view: _View) -> Matrix:
    height, width = view.shape
    kept = (points > 0).all(axis=1) & (points < [width, height]).all(axis=1)
    return points[kept][:4000]


def _border(rng: np.random.Generator, surface: Surface, strokes: Strokes, view: _View) -> tuple[str, Floats | None]:
    """Where the sheet ends, if that can be seen: share of it at each pixel."""
    height, width = view.shape
    box = view.project(strokes.points * view.scale / view.mm)
    small = surface.size_mm[0] < 100
    if rng.random() > (0.75 if small else 0.3):
        return "none", None
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
        return "none", None
    return "in the picture", canvas * np.float32(1 / 255)


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


def _light(rng: np.random.Generator, surface: str, view: _View, field: Floats) -> tuple[str, Floats]:
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
    full = cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
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
            cv2.line(canvas, ends[0], ends[1], 1.0, max(1, round(top * rng.uniform(0.4, 0.7))))
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), size * log_uniform(rng, 0.008, 0.06)), np.float32)


def _glare(rng: np.random.Generator, view: _View, field: Floats) -> Floats:
    """What a lamp does to a glossy board: beside the digit rather than over it."""
    height, width = view.shape
    y, x = np.mgrid[0:height:4, 0:width:4].astype(np.float32)
    cx, cy = rng.uniform(0, width), rng.uniform(0, height)
    spread = rng.uniform(0.08, 0.2) * max(view.shape)
    spot = np.exp(-(((x - cx) / spread) ** 2 + ((y - cy) / spread / rng.uniform(0.5, 1)) ** 2))
    full = cv2.resize(spot, (width, height), interpolation=cv2.INTER_LINEAR)
    away = np.clip(field / np.float32(0.15 * view.scale), 0.15, 1)
    return np.asarray(full * cv2.resize(cv2.blur(away, (31, 31)), (width, height)), np.float32)


def _grain(rng: np.random.Generator, name: str, surface: Surface, view: _View) -> Floats:
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


def _balance(rng: np.random.Generator) -> Floats:
    """White balance: warm lamps, cold windows."""
    warm = rng.normal(0, 0.035)
    return np.array([1 + warm, 1 + rng.normal(0, 0.008), 1 - 1.4 * warm], np.float32)


def _sensor(rng: np.random.Generator, view: _View, contrast: float) -> tuple[Floats, list[Floats]]:
    """Noise of brightness and of each colour, never so strong that it hides the digit."""
    strength = min(log_uniform(rng, 0.8, 11), 0.09 * contrast)
    bright = noise(rng, view.shape, 1.0) * np.float32(0.7 * strength)
    colour = [noise(rng, view.shape, 2.5) * np.float32(0.35 * strength) for _ in range(3)]
    return bright, colour


def _shake(rng: np.random.Generator, picture: Bytes, stroke: float) -> Bytes:
    long = min(1.1 * stroke + 2, 40) * rng.uniform(0.6, 1)
    side = 2 * int(long / 2 + 1) + 1
    kernel = np.zeros((side, side), np.float32)
    angle = rng.uniform(0, np.pi)
    dx, dy = long / 2 * np.cos(angle), long / 2 * np.sin(angle)
    ends = [(round((side // 2 + s * dx) * 16), round((side // 2 + s * dy) * 16)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, 4)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8)
