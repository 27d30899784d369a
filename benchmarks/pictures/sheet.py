"""Contact sheets: many pictures on one page, to be looked at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

_CELL = 150
_GAP = 6
_CAPTION = 16
_COLUMNS = 10

# Behind what is transparent, and between the pictures: unlike any paper or ink.
_CHECKS = ((205, 205, 205), (240, 240, 240))
_PAGE = (72, 74, 80)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture on the sheet.

    Attributes:
        data: The file.
        caption: What stands below it.
        pixels: uint8 [28, 28], shown beside it if given.
    """

    data: bytes
    caption: str
    pixels: npt.NDArray[np.uint8] | None = None


def contact_sheet(entries: Sequence[Entry]) -> Image.Image:
    """A page of pictures, ten a row."""
    wide = _CELL + (_CELL // 2 + _GAP // 2 if any(entry.pixels is not None for entry in entries) else 0)
    rows = -(-len(entries) // _COLUMNS)
    across, down = wide + _GAP, _CELL + _CAPTION + _GAP
    page = Image.new("RGB", (_GAP + _COLUMNS * across, _GAP + rows * down), _PAGE)
    draw = ImageDraw.Draw(page)
    for number, entry in enumerate(entries):
        x, y = _GAP + number % _COLUMNS * across, _GAP + number // _COLUMNS * down
        page.paste(_thumbnail(entry.data), (x, y))
        if entry.pixels is not None:
            seen = Image.fromarray(entry.pixels).resize((_CELL // 2, _CELL // 2), Image.Resampling.NEAREST)
            page.paste(seen, (x + _CELL + _GAP // 2, y))
        draw.text((x, y + _CELL + 2), entry.caption, fill="white")
    return page


def _thumbnail(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file).convert("RGBA")
    image.thumbnail((_CELL, _CELL))
    y, x = np.mgrid[: image.height, : image.width] // 8
    checks = np.array(_CHECKS, np.uint8)[(x + y) % 2]
    behind = Image.fromarray(checks).convert("RGBA")
    behind.alpha_composite(image)
    return behind.convert("RGB")
