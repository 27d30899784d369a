"""The probe set: a few labelled images with the reference's answers, which a bundle may bring along.

By it a server sees that a model answers on its machine as it did where it was exported. One record per image and
nothing around them: 784 bytes of pixels, one byte with the label, ten float32 with the reference's probabilities,
little end first. Such a file has nothing that could be parsed wrongly.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from bundle.errors import BundleError

PROBE = "probe.bin"

# Enough for any check at a start, few enough to be held in memory beside the model.
MAX_IMAGES = 1000

_RECORD = struct.Struct("<784sB10f")


class Example(NamedTuple):
    """One image: 28 x 28 bytes, its digit, and the probability that the reference gave to each."""

    pixels: bytes
    label: int
    probabilities: tuple[float, ...]


def write(examples: Iterable[Example]) -> bytes:
    """The file's content."""
    return b"".join(_RECORD.pack(each.pixels, each.label, *each.probabilities) for each in examples)


def read(content: bytes) -> list[Example]:
    """What `write` was given.

    Raises:
        BundleError: The content is no probe set.
    """
    images, rest = divmod(len(content), _RECORD.size)
    if rest or not 1 <= images <= MAX_IMAGES:
        raise BundleError(
            f"{PROBE} holds {len(content)} bytes; 1 to {MAX_IMAGES} records of {_RECORD.size} bytes were expected; "
            "export the model again"
        )
    return [Example(pixels, label, tuple(row)) for pixels, label, *row in _RECORD.iter_unpack(content)]
