"""Protobuf's encoding, for parts of messages that are cheaper to write than to have written.

See protobuf.dev/programming-guides/encoding: each field is a tag (its number, then how it is encoded), for bytes and
messages a length, and the value.
"""

from collections.abc import Iterator

VARINT, LENGTH, FIXED32 = 0, 2, 5


def tag(number: int, encoding: int) -> int:
    """The byte before a value; field numbers up to 15 need no second one."""
    return number << 3 | encoding


def embedded(number: int, message: bytes) -> bytes:
    """A serialised message as a field of another."""
    return bytes((tag(number, LENGTH), *_varint(len(message)))) + message


def _varint(number: int) -> Iterator[int]:
    """Seven bits a byte, the lowest first; all but the last byte say that more come."""
    while number >> 7:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
