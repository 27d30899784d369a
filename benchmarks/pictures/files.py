"""Pictures as files: what cameras, scanners and paint programs write."""

import io

import numpy as np
from PIL import Image, ImageOps

from benchmarks.pictures.strokes import Bytes

_ORIENTATION = 0x0112

# Quarter turns to the left by which the pixels of an upright picture are stored, for each value of the tag.
_TURNS = {1: 0, 6: 1, 3: 2, 8: 3}


def camera(rng: np.random.Generator, picture: Bytes) -> tuple[bytes, str, str]:
    """A photograph as a file, how its pixels are stored, and the format.

    Cameras store what the sensor saw and note in the file how they were held.
    """
    kind = str(rng.choice(["JPEG", "PNG", "WEBP"], p=[0.92, 0.04, 0.04]))
    tag = int(rng.choice(list(_TURNS), p=[0.7, 0.14, 0.08, 0.08])) if kind == "JPEG" else 1
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture, _TURNS[tag])))
    exif = Image.Exif()
    exif[_ORIENTATION] = tag
    match kind:
        case "JPEG":
            data = encoded(stored, kind, quality=int(rng.integers(40, 96)), exif=exif)
        case "PNG":
            data = encoded(stored, kind, compress_level=1)
        case _:
            data = encoded(stored, kind, quality=int(rng.integers(50, 91)), method=0)
    return data, "upright" if tag == 1 else "turned by its tag", kind


def scanner(
    rng: np.random.Generator, picture: Bytes, *, depth: str, threshold: int, dpi: int, inverted: bool
) -> tuple[bytes, str]:
    """A scan as a file, and the format."""
    image = Image.fromarray(picture)
    if depth != "colour":
        image = image.convert("L")
    if depth == "bilevel":
        image = image.point([255 * (value > threshold) for value in range(256)])
    if inverted:
        image = ImageOps.invert(image)
    resolution = {"dpi": (dpi, dpi)}
    if depth == "bilevel":
        image = image.convert("1")
        if rng.random() < 0.6:
            return encoded(image, "TIFF", compression="group4", **resolution), "TIFF, bilevel"
        return encoded(image, "PNG", **resolution), "PNG, bilevel"
    kind = str(rng.choice(["JPEG", "PNG", "TIFF"], p=[0.5, 0.25, 0.25]))
    match kind:
        case "JPEG":
            data = encoded(image, kind, quality=int(rng.integers(40, 96)), **resolution)
        case "PNG":
            data = encoded(image, kind, compress_level=1, **resolution)
        case _:
            data = encoded(image, kind, compression=str(rng.choice(["tiff_lzw", "raw"])), **resolution)
    return data, kind


def program(rng: np.random.Generator, picture: Bytes) -> tuple[bytes, str]:
    """A drawing as a file, and the format. A fourth channel is opacity."""
    image = Image.fromarray(picture)
    if image.mode == "RGBA":
        kind = str(rng.choice(["PNG", "WEBP", "GIF"], p=[0.7, 0.2, 0.1]))
        if kind == "WEBP":
            return encoded(image, kind, lossless=True, exact=True, method=0), kind
        return encoded(image, kind), kind
    kind = str(rng.choice(["PNG", "PNG, palette", "WEBP", "GIF", "BMP", "JPEG"], p=[0.45, 0.1, 0.15, 0.14, 0.06, 0.1]))
    match kind:
        case "PNG, palette":
            return encoded(image.quantize(32), "PNG"), kind
        case "WEBP":
            return encoded(image, kind, quality=int(rng.integers(50, 96)), method=0), kind
        case "JPEG":
            return encoded(image, kind, quality=int(rng.integers(60, 96))), kind
        case _:
            return encoded(image, kind), kind


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
