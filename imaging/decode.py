"""From the bytes of a picture file to its colours, upright and no larger than is needed to read digits."""

import functools
import importlib
import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from imaging.errors import PictureError

Colours = npt.NDArray[np.uint8]
"""uint8 [height, width, 3]: red, green, blue."""

# Of all that Pillow reads; some of the others start programs or are seldom looked after.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

# How pictures begin, from the fifth byte on, that phones take and Pillow reads with a plug-in only.
_HEIC = (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")

# What claims to be larger may be made to fill the memory; cameras of 64 megapixels are the largest in common use.
MAX_BYTES = 64 << 20
MAX_PIXELS = 65_000_000

# What EXIF's field 274 says about how the camera was held.
_ORIENTATION = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture that was decoded.

    Attributes:
        colours: uint8 [height, width, 3], upright, shrunk.
        scale: Pixels of the file for each of these, 1 or more.
        width: Of the file's picture as it is seen upright.
        height: The same.
    """

    colours: Colours
    scale: float
    width: int
    height: int


def decode(data: bytes, *, side: int) -> Picture:
    """The first frame of a picture file, its longer side shrunk to `side` pixels if it has more.

    Raises:
        PictureError: The bytes are no picture, or it is too large.
    """
    if not data:
        raise PictureError("it is empty; a picture file was expected")
    if len(data) > MAX_BYTES:
        raise PictureError(f"{len(data):,} bytes; at most {MAX_BYTES:,} are read; scale the picture down")
    try:
        # Pillow warns of pictures that are large, and of flaws in them that do not keep it from reading.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_formats()) as file:
            if file.width * file.height > MAX_PIXELS:
                raise PictureError(
                    f"{file.width} x {file.height} pixels; at most {MAX_PIXELS:,} are read; scale it down"
                )
            return _upright(file, side)
    except UnidentifiedImageError as error:
        if data[4:12] in _HEIC and "HEIF" not in _formats():
            raise PictureError("a HEIC picture; install pillow-heif where it is read, or save it as JPEG") from error
        raise PictureError("no picture that can be read; PNG, JPEG, WebP, BMP, TIFF or GIF is expected") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"so many pixels that they are not counted; at most {MAX_PIXELS:,} are read") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"cannot be read as a picture: {error}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """FORMATS, and the format of phones where Pillow's plug-in for it is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ModuleNotFoundError:
        return FORMATS
    return (*FORMATS, "HEIF")


def _upright(file: Image.Image, side: int) -> Picture:
    width, height = file.size
    # A JPEG is decoded at a half, a quarter or an eighth in less than half the time.
    share = min(1.0, side / max(width, height))
    file.draft(None, (max(1, int(width * share)), max(1, int(height * share))))
    # Some formats, such as TIFF, are turned as they are loaded, and have no orientation from then on.
    file.load()
    orientation = _orientation(file)
    picture = Image.fromarray(_colours(file, side))
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    if orientation >= 5:
        width, height = height, width
    scale = max(width, height) / max(picture.size)
    return Picture(colours=np.asarray(picture), scale=scale, width=width, height=height)


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1  # a picture is worth reading though what its camera noted is not


def _colours(file: Image.Image, side: int) -> Colours:
    """Shrunk colours of any mode."""
    if file.mode in ("I", "F") or file.mode.startswith("I;"):
        return _of_range(_shrunk(np.asarray(file).astype(np.float32), side))
    if file.has_transparency_data:
        return _on_paper(_shrunk(np.asarray(file.convert("RGBA")), side))
    # Shrunk by a whole number first, which Pillow does without a second copy of the picture.
    factor = max(file.size) // side
    if factor > 1 and file.mode in ("L", "RGB", "CMYK"):
        file = file.reduce(factor)
    return _shrunk(np.asarray(file.convert("RGB")), side)


def _shrunk(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Every pixel the mean of those it stands for; [height, width] or [height, width, channels]."""
    height, width = values.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return values
    size = max(1, round(width * share)), max(1, round(height * share))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _of_range(values: npt.NDArray[np.floating]) -> Colours:
    """Grey of more than eight bits: the range that is used, not the one that could be."""
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    grey = (finite - low) * (255 / (high - low) if high > low else 0)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _on_paper(values: npt.NDArray[np.uint8]) -> Colours:
    """What is transparent becomes paper, on which that which is not stands out; from [height, width, 4]."""
    opacity = values[:, :, 3:].astype(np.float32) / 255
    colours = values[:, :, :3].astype(np.float32)
    opaque = opacity[:, :, 0] > 0.5
    if not opaque.any():
        return np.zeros_like(values[:, :, :3])
    seen = colours[opaque]
    rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    extent = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    if len(seen) > 0.7 * extent and seen.std(axis=0).max() > 10:
        paper = np.median(seen, axis=0)  # a sheet with a transparent rim
    else:
        paper = np.full(3, 0.0 if seen.mean() > 127 else 255.0)  # strokes, or a sheet that they were cut out of
    return np.rint(colours * opacity + paper * (1 - opacity)).astype(np.uint8)
