"""From picture files to the 28 x 28 white-on-black pixels that the server takes."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from clients.errors import InvalidImages

# Of 255; less than this between the lightest and the darkest of the 28 x 28 pixels is paper, not ink.
LEAST_CONTRAST = 16

# Of all that Pillow reads; some of the others start programs or are seldom looked after.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

# A picture of one digit needs no more; what claims to be larger may be made to fill the memory.
MAX_PIXELS = 50_000_000


def load(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture of one digit, uint8 [28, 28].

    A picture that is mostly light is taken for dark ink on light paper and inverted. One of another size is scaled as a
    whole, so the digit has to fill most of a square picture, as MNIST's do.

    Raises:
        InvalidImages: The file is missing, no picture, too large, or blank.
    """
    try:
        # Pillow only warns of some pictures that are far too large.
        with (
            warnings.catch_warnings(category=Image.DecompressionBombWarning, action="ignore"),
            Image.open(path, formats=FORMATS) as picture,
        ):
            if picture.width * picture.height > MAX_PIXELS:
                raise InvalidImages(
                    f"{path}: {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read; scale it down"
                )
            grey = np.asarray(_grey(picture).resize((28, 28), Image.Resampling.BOX))
    except UnidentifiedImageError as error:
        raise InvalidImages(
            f"{path}: no picture that can be read; PNG, JPEG, WebP, BMP, TIFF or GIF is expected"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidImages(
            f"{path}: cannot be read as a picture: {getattr(error, 'strerror', None) or error}"
        ) from error
    if int(grey.max()) - int(grey.min()) < LEAST_CONTRAST:
        raise InvalidImages(f"{path}: looks blank; a digit that stands out from its paper was expected")
    return np.invert(grey) if grey.mean() > 127 else grey


def _grey(picture: Image.Image) -> Image.Image:
    """The picture in grey; what is transparent becomes paper, on which the ink stands out."""
    if not picture.has_transparency_data:
        return picture.convert("L")
    colour = picture.convert("RGBA")
    grey, opacity = colour.convert("L"), colour.getchannel("A")
    ink = np.asarray(grey)[np.asarray(opacity) > 127]
    paper = 0 if ink.size and ink.mean() > 127 else 255
    return Image.composite(grey, Image.new("L", grey.size, paper), opacity)
