"""From the bytes of a picture file to its grey values."""

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from imaging.errors import PictureError

# Of all that Pillow reads; some of the others start programs or are seldom looked after.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

# A picture of digits needs no more; what claims to be larger may be made to fill the memory.
MAX_PIXELS = 50_000_000


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """The picture in grey, uint8 [height, width].

    Raises:
        PictureError: The bytes are no picture, or it is too large.
    """
    try:
        # Pillow only warns of some pictures that are far too large.
        with (
            warnings.catch_warnings(category=Image.DecompressionBombWarning, action="ignore"),
            Image.open(io.BytesIO(data), formats=FORMATS) as picture,
        ):
            if picture.width * picture.height > MAX_PIXELS:
                raise PictureError(
                    f"{picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read; scale it down"
                )
            return np.asarray(_grey(picture))
    except UnidentifiedImageError as error:
        raise PictureError("no picture that can be read; PNG, JPEG, WebP, BMP, TIFF or GIF is expected") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"cannot be read as a picture: {error}") from error


def _grey(picture: Image.Image) -> Image.Image:
    """The picture in grey; what is transparent becomes paper, on which the ink stands out."""
    if not picture.has_transparency_data:
        return picture.convert("L")
    colour = picture.convert("RGBA")
    grey, opacity = colour.convert("L"), colour.getchannel("A")
    ink = np.asarray(grey)[np.asarray(opacity) > 127]
    paper = 0 if ink.size and ink.mean() > 127 else 255
    return Image.composite(grey, Image.new("L", grey.size, paper), opacity)
