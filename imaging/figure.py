"""Pictures for people: what was found where, and what each step made of a picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from imaging.digit import Box
from imaging.reader import Reading

_RED = (214, 39, 40)

# Of the tiles of `explained`, in pixels.
_TILE, _GAP, _CAPTION = 300, 16, 44


def annotated(reading: Reading, labels: Sequence[str]) -> Image.Image:
    """The picture with a box around each digit and a label, such as its value, on it.

    Args:
        reading: What was read.
        labels: One per digit.
    """
    canvas = Image.fromarray(reading.picture.colours)
    draw = ImageDraw.Draw(canvas)
    line = max(1, max(canvas.size) // 300)
    for digit, label in zip(reading.digits, labels, strict=True):
        left, top, right, bottom = _shrunk(digit.box, reading.picture.scale)
        draw.rectangle((left - line, top - line, right + line, bottom + line), outline=_RED, width=line)
        size = min(max(12, (bottom - top) // 3), max(12, max(canvas.size) // 20))
        font = ImageFont.load_default(size)
        extent = draw.textbbox((0, 0), label, font=font)
        x = min(max(0, left - line), max(0, canvas.width - extent[2] - 4))
        y = top - line - extent[3] - 2
        y = y if y >= 0 else min(bottom + line, canvas.height - extent[3] - 2)
        draw.rectangle((x, y, x + extent[2] + 4, y + extent[3] + 2), fill=_RED)
        draw.text((x + 2, y), label, font=font, fill="white")
    return canvas


def explained(reading: Reading, labels: Sequence[str]) -> Image.Image:
    """The picture after every step, with a line on each.

    Args:
        reading: What was read.
        labels: One per digit.
    """
    ink = reading.ink
    removed = np.full((*reading.kept.shape, 3), 255, np.uint8)
    removed[reading.strokes] = (235, 150, 150)
    removed[reading.kept] = 0
    strongest = max(float(ink.amount.max()), 1e-6)
    contrast = "light ink on dark" if ink.light else "dark ink on light"
    found = "no digit" if not reading.digits else ", ".join(labels[:12]) + (" …" if len(labels) > 12 else "")
    tiles = [
        (Image.fromarray(reading.picture.colours), "1 decoded", _size(reading)),
        (Image.fromarray(ink.tone), "2 tone", "the colours in which ink differs most"),
        (_grey(ink.amount / strongest), "3 ink", f"paper taken away: {contrast}"),
        (Image.fromarray(removed), "4 strokes", "pale: ruling, or beside the sheet"),
        (annotated(reading, labels), "5 segmented", f"{len(reading.digits)} of {len(reading.candidates)} candidates"),
        (_contact_sheet([digit.pixels for digit in reading.digits]), "6 normalised to 28 x 28", found),
    ]
    rows = [tiles[:3], tiles[3:]]
    fitted = [[_fitted(tile) for tile, _, _ in row] for row in rows]
    heights = [max(tile.height for tile in row) + _CAPTION + _GAP for row in fitted]
    canvas = Image.new("RGB", (3 * (_TILE + _GAP) + _GAP, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    top = _GAP
    for row, images, height in zip(rows, fitted, heights, strict=True):
        for column, ((_, title, note), tile) in enumerate(zip(row, images, strict=True)):
            left = _GAP + column * (_TILE + _GAP)
            draw.text((left, top), title, font=ImageFont.load_default(17), fill="black")
            draw.text((left, top + 22), note, font=ImageFont.load_default(13), fill=(90, 90, 90))
            canvas.paste(tile, (left, top + _CAPTION))
            right, bottom = left + tile.width, top + _CAPTION + tile.height
            draw.rectangle((left - 1, top + _CAPTION - 1, right, bottom), outline=(200, 200, 200))
        top += height
    return canvas


def _size(reading: Reading) -> str:
    height, width = reading.picture.colours.shape[:2]
    before = f"{reading.picture.width} x {reading.picture.height}"
    return before if reading.picture.scale == 1 else f"{before}, shrunk to {width} x {height}"


def _shrunk(box: Box, scale: float) -> tuple[int, int, int, int]:
    sides = (box.left, box.top, box.left + box.width, box.top + box.height)
    left, top, right, bottom = (round(side / scale) for side in sides)
    return left, top, right, bottom


def _grey(share: npt.NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.rint(255 * share).astype(np.uint8))


def _fitted(tile: Image.Image) -> Image.Image:
    share = _TILE / max(tile.size)
    size = max(1, round(tile.width * share)), max(1, round(tile.height * share))
    return tile.convert("RGB").resize(size, Image.Resampling.NEAREST if share > 1 else Image.Resampling.BOX)


def _contact_sheet(images: Sequence[npt.NDArray[np.uint8]]) -> Image.Image:
    """Up to 100 images in rows."""
    images = images[:100] or [np.zeros((28, 28), np.uint8)]
    side = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // side)
    canvas = np.zeros((rows * 29 - 1, side * 29 - 1), np.uint8)
    canvas[28::29] = 128
    canvas[:, 28::29] = 128
    for index, image in enumerate(images):
        row, column = divmod(index, side)
        canvas[29 * row : 29 * row + 28, 29 * column : 29 * column + 28] = image
    return Image.fromarray(canvas)
