"""What people write digits with, and on."""

from dataclasses import dataclass

import numpy as np

from benchmarks.pictures.strokes import Floats, Strokes

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Pen:
    """A pen, and the paper that goes with it.

    Attributes:
        inks: Its colours.
        width_mm: From the finest to the broadest.
        digit_mm: How large people write with it.
        opacity: From the faintest to the strongest.
        grain: How much of the surface's grain shows in the line, 0 to 1.
        streaks: How much the ink varies along the line.
        surfaces: Names of `SURFACES`.
    """

    inks: tuple[Colour, ...]
    width_mm: tuple[float, float]
    digit_mm: tuple[float, float]
    opacity: tuple[float, float] = (0.9, 1.0)
    grain: float = 0.0
    streaks: float = 0.0
    surfaces: tuple[str, ...] = ("white paper", "cream paper", "recycled paper", "sticky note")


# A broader line than this share of the digit's size would fill its loops.
BROADEST = 0.15

BLUE, BLACK, RED, GREEN = (32, 52, 142), (38, 37, 44), (186, 40, 46), (30, 110, 70)

PENS = {
    "blue ballpoint": Pen(
        inks=(BLUE, (52, 70, 165)), width_mm=(0.35, 0.7), digit_mm=(5, 32), opacity=(0.7, 0.95), streaks=0.1, grain=0.12
    ),
    "black ballpoint": Pen(
        inks=(BLACK,), width_mm=(0.35, 0.7), digit_mm=(5, 32), opacity=(0.7, 0.95), streaks=0.1, grain=0.12
    ),
    "red ballpoint": Pen(inks=(RED,), width_mm=(0.35, 0.7), digit_mm=(5, 32), opacity=(0.75, 0.95), streaks=0.1),
    "gel pen": Pen(inks=(BLACK, BLUE, GREEN, (110, 45, 130), RED), width_mm=(0.4, 0.9), digit_mm=(5, 40)),
    "pencil": Pen(
        inks=((88, 88, 92), (70, 70, 74)),
        width_mm=(0.4, 1.0),
        digit_mm=(6, 40),
        opacity=(0.5, 0.85),
        grain=0.45,
        streaks=0.1,
        surfaces=("white paper", "cream paper", "recycled paper"),
    ),
    "marker": Pen(
        inks=(BLACK, (30, 30, 30), (40, 60, 170), (200, 40, 40), (20, 120, 70), (110, 50, 140), (215, 100, 20)),
        width_mm=(1.5, 6),
        digit_mm=(20, 120),
        opacity=(0.82, 1),
        streaks=0.06,
        surfaces=("white paper", "cream paper", "recycled paper", "sticky note", "cardboard"),
    ),
    "chalk": Pen(
        inks=((232, 232, 226), (232, 232, 226), (236, 222, 140), (240, 170, 170)),
        width_mm=(6, 12),
        digit_mm=(60, 250),
        opacity=(0.7, 0.98),
        grain=0.75,
        surfaces=("green board", "black board"),
    ),
    "white pen": Pen(
        inks=((240, 240, 238), (214, 216, 220), (235, 215, 150)),
        width_mm=(0.7, 1.4),
        digit_mm=(10, 60),
        opacity=(0.8, 1),
        streaks=0.06,
        surfaces=("black card", "dark blue card", "cardboard"),
    ),
    "whiteboard marker": Pen(
        inks=((32, 34, 40), (34, 60, 168), (196, 44, 52), (24, 128, 82)),
        width_mm=(2, 4.5),
        digit_mm=(30, 150),
        opacity=(0.75, 0.98),
        streaks=0.1,
        surfaces=("whiteboard",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What is written on.

    Attributes:
        colours: From which to which it goes.
        grain: Strength of what is visible of its fibres, 0 to 1 of its brightness.
        ruled: Whether it is sold with lines.
        size_mm: Width and height of a sheet.
    """

    colours: tuple[Colour, Colour]
    grain: float
    ruled: bool = False
    size_mm: tuple[float, float] = (210, 297)


SURFACES = {
    "white paper": Surface(colours=((236, 237, 240), (252, 252, 250)), grain=0.008, ruled=True),
    "cream paper": Surface(colours=((240, 230, 205), (250, 244, 228)), grain=0.012, ruled=True),
    "recycled paper": Surface(colours=((196, 192, 182), (222, 219, 210)), grain=0.03, ruled=True),
    "sticky note": Surface(colours=((250, 232, 120), (255, 190, 205)), grain=0.006, size_mm=(76, 76)),
    "cardboard": Surface(colours=((165, 125, 85), (200, 165, 122)), grain=0.035),
    "black card": Surface(colours=((34, 34, 36), (58, 57, 58)), grain=0.05),
    "dark blue card": Surface(colours=((28, 36, 70), (44, 58, 96)), grain=0.05),
    "green board": Surface(colours=((38, 66, 54), (62, 92, 78)), grain=0.03, size_mm=(3000, 1000)),
    "black board": Surface(colours=((40, 41, 43), (70, 70, 70)), grain=0.03, size_mm=(3000, 1000)),
    "whiteboard": Surface(colours=((228, 232, 234), (246, 248, 248)), grain=0.002, size_mm=(1800, 1200)),
}


def mixed(rng: np.random.Generator, colours: tuple[Colour, Colour]) -> Floats:
    """A colour between two, float32 [3]."""
    first, last = np.array(colours, np.float32)
    return np.asarray(first + (last - first) * rng.random(3, np.float32).mean(), np.float32)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two, as likely in each octave."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def pressure(rng: np.random.Generator, strokes: Strokes, strength: float) -> Floats:
    """Factor of the line's width at each point: a hand presses more here than there. float32 [K]."""
    waves = np.zeros(len(strokes.points), np.float32)
    for _ in range(3):
        direction, phase = rng.normal(0, 4, 2), rng.uniform(0, 6.3)
        waves += np.sin(strokes.points @ direction + phase).astype(np.float32)
    return 1 + np.float32(strength / 3) * waves


def size_name(share: float) -> str:
    """How large a digit is that takes this share of the picture's shorter side."""
    return "small" if share < 0.3 else "medium" if share < 0.55 else "large"


def line_name(width: float) -> str:
    """How broad a line is, in units of strokes."""
    return "thin" if width < 0.04 else "medium" if width < 0.1 else "thick"
