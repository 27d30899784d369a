"""What a pool and its workers tell each other: a head of fixed size, then a body.

A worker has read what strangers sent, so that what it says is checked like theirs.
"""

import struct
from collections.abc import Sequence

import numpy as np

from imaging.digit import Box, Digit, Warning

# To a worker: bytes of the picture that follows, and whether it may hold several digits.
REQUEST = struct.Struct("=I?")

# From it: the kind, and the bytes that follow.
REPLY = struct.Struct("=BI")

# It is ready for pictures, or a library is missing, which the body names; the digits of a picture; why it has none, in
# words for the caller; what went wrong in words for the log.
READY, MISSING, DIGITS, REFUSED, FAILED = range(5)

MAX_DIGITS = 4096

# The box, warnings as bits in their order of definition, the pixels.
_DIGIT = struct.Struct("=4II784s")
_WARNINGS = tuple(Warning)

MAX_REPLY_BYTES = MAX_DIGITS * _DIGIT.size


def write_digits(digits: Sequence[Digit]) -> bytes:
    """The body of DIGITS."""
    return b"".join(
        _DIGIT.pack(
            *(digit.box.left, digit.box.top, digit.box.width, digit.box.height),
            sum(1 << _WARNINGS.index(warning) for warning in digit.warnings),
            digit.pixels.tobytes(),
        )
        for digit in digits
    )


def read_digits(body: bytes) -> tuple[Digit, ...]:
    """What `write_digits` has written.

    Raises:
        struct.error: It has not.
    """
    return tuple(
        Digit(
            pixels=np.frombuffer(pixels, np.uint8).reshape(28, 28),
            box=Box(left=left, top=top, width=width, height=height),
            warnings=tuple(warning for bit, warning in enumerate(_WARNINGS) if bits >> bit & 1),
        )
        for left, top, width, height, bits, pixels in _DIGIT.iter_unpack(body)
    )
