"""Pictures as files: what cameras, scanners and paint programs write."""

import io

import numpy as np
from PIL import Image

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


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()
