"""From pictures of any kind to the 28 x 28 white-on-black pixels that a recogniser takes.

    for digit in imaging.read(path.read_bytes(), many=True):
        digit.pixels, digit.box, digit.warnings

One package for clients and for servers that take encoded images. `imaging.read` needs Pillow, OpenCV and numpy.
`imaging.pool` does the same for pictures that strangers send, in processes of their own, and loads neither Pillow nor
OpenCV into the one that has it.
"""

from imaging.digit import Box, Digit, Warning
from imaging.errors import PictureError

__all__ = ["Box", "Digit", "PictureError", "Warning", "read"]


def read(data: bytes, *, many: bool = False) -> tuple[Digit, ...]:
    """See `imaging.reader.read`, which is imported by the first call.

    Raises:
        PictureError: The bytes are no picture that can be read, or it is too large.
        ModuleNotFoundError: Pillow or OpenCV is not installed.
    """
    from imaging.reader import read

    return read(data, many=many)
