"""The way from a picture's bytes to its digits."""

import numpy as np
from PIL import Image

from imaging.decode import decode
from imaging.digit import Box, Digit, Warning

# Of 255; less than this between the lightest and the darkest of the 28 x 28 pixels is paper, not ink.
LEAST_CONTRAST = 16


def read(data: bytes, *, many: bool = False) -> tuple[Digit, ...]:
    """The digits in a picture: one, or with `many` all of them, line by line from left to right.

    Without `many` there is always exactly one; if the picture looks blank, its warnings say so.

    Args:
        data: A picture file: PNG, JPEG, WebP, BMP, TIFF, or GIF, of which the first frame is taken.
        many: Whether the picture may hold several digits, or none.

    Raises:
        PictureError: The bytes are no such picture, or it is too large.
    """
    grey = decode(data)
    pixels = np.asarray(Image.fromarray(grey).resize((28, 28), Image.Resampling.BOX))
    blank = int(pixels.max()) - int(pixels.min()) < LEAST_CONTRAST
    if many and blank:
        return ()
    height, width = grey.shape
    return (
        Digit(
            pixels=np.invert(pixels) if pixels.mean() > 127 else pixels,
            box=Box(left=0, top=0, width=width, height=height),
            warnings=(Warning.BLANK,) if blank else (),
        ),
    )
