"""Digits as a pen draws them: points in shares of the pad's height."""

from playwright.sync_api import Page

Stroke = tuple[tuple[float, float], ...]

# The pad rounds what lies between three points: a corner is a point given twice.
TWO: Stroke = (
    *((0.31, 0.33), (0.34, 0.24), (0.44, 0.18), (0.56, 0.18), (0.64, 0.25), (0.65, 0.36), (0.58, 0.50), (0.46, 0.64)),
    *((0.32, 0.79), (0.32, 0.79), (0.48, 0.78), (0.70, 0.80)),
)
THREE: Stroke = (
    *((0.32, 0.27), (0.42, 0.19), (0.55, 0.18), (0.65, 0.26), (0.64, 0.38), (0.55, 0.46), (0.46, 0.48), (0.46, 0.48)),
    *((0.58, 0.50), (0.68, 0.58), (0.68, 0.70), (0.58, 0.80), (0.44, 0.82), (0.32, 0.75)),
)
# In one stroke, back along the bar.
FOUR: Stroke = (
    *((0.48, 0.18), (0.38, 0.36), (0.29, 0.54), (0.29, 0.54), (0.50, 0.54), (0.70, 0.53), (0.70, 0.53)),
    *((0.59, 0.54), (0.59, 0.54), (0.61, 0.36), (0.61, 0.36), (0.59, 0.60), (0.56, 0.83)),
)
SEVEN: Stroke = ((0.30, 0.25), (0.50, 0.24), (0.72, 0.25), (0.72, 0.25), (0.60, 0.50), (0.45, 0.80))

# What fills the wide pad: two lines of digits.
LINES: tuple[tuple[Stroke, ...], ...] = tuple(
    tuple(
        tuple((0.02 + 0.36 * column + 0.45 * x, 0.05 + 0.45 * row + 0.45 * y) for x, y in stroke)
        for column, stroke in enumerate(line)
    )
    for row, line in enumerate(((THREE, SEVEN, FOUR), (TWO, FOUR, SEVEN, THREE)))
)


def draw(page: Page, stroke: Stroke, *, right: float = 0.0, hold: bool = False) -> None:
    """Draw with the mouse, moved to the right by a share of the pad's height; `hold` leaves the button down."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    first, *rest = [(box["x"] + (x + right) * box["height"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*first)
    page.mouse.down()
    for point in rest:
        page.mouse.move(*point)
    if not hold:
        page.mouse.up()
