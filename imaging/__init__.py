"""From pictures of any kind to the 28 x 28 white-on-black pixels that a recogniser takes.

    for digit in imaging.read(path.read_bytes(), many=True):
        digit.pixels, digit.box, digit.warnings

One package for clients and for servers that take encoded images. Needs Pillow, OpenCV and numpy.
"""

from imaging.digit import Box, Digit, Warning
from imaging.errors import PictureError
from imaging.read import read

__all__ = ["Box", "Digit", "PictureError", "Warning", "read"]
