"""A queue of records in shared memory, from one process that writes to one that reads.

Wake-ups go through an eventfd, whose counter carries how many bytes have been written: the reader neither polls nor
looks at anything that the kernel has not handed over, so the
reader depends on nothing of how a processor orders memory accesses.

Neither side ever waits for the other. The memory has no name: it is gone when the last process that has it is.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

# The reader's position, in a cache line of its own.
_HEADER_BYTES = 64
_LENGTH_BYTES = 4
_ALIGNMENT = 8

# Stands in the place of a length: the record did not fit before the end, and follows at the start.
_WRAPPED = 0xFFFFFFFF


def memory_bytes(capacity: int) -> int:
    """Bytes of shared memory that a ring of this capacity takes.

    Args:
        capacity: Bytes that records may take, with some for each of them; a multiple of 8.
    """
    return _HEADER_BYTES + capacity


def record_bytes(size: int) -> int:
    """Bytes that a record of this size takes in a ring."""
    return (_LENGTH_BYTES + size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT


class RingWriter:
    """The writing end of a new ring.

    Args:
        memory: The ring's memory, all zeros.
        wake_fd: Its eventfd, whose counter is 0.
    """

    def __init__(self, memory: memoryview, wake_fd: int) -> None:
        self._read = memory[:_HEADER_BYTES].cast("Q")
        self._data = memory[_HEADER_BYTES:]
        self._capacity = len(self._data)
        self._wake_fd = wake_fd
        self._written = 0

    def write(self, *parts: bytes | memoryview) -> bool:
        """Append a record and wake the reader.

        Returns:
            False if there is no room for it now; nothing was written.
        """
        size = sum(map(len, parts))
        start = self._written % self._capacity
        total = record_bytes(size)
        skipped = self._capacity - start if start + total > self._capacity else 0
        if self._written + skipped + total - self._read[0] > self._capacity:
            return False
        if skipped:
            self._put_length(start, _WRAPPED)
            start = 0
        self._put_length(start, size)
        start += _LENGTH_BYTES
        for part in parts:
            self._data[start : start + len(part)] = part
            start += len(part)
        self._written += skipped + total
        os.eventfd_write(self._wake_fd, skipped + total)
        return True

    def _put_length(self, at: int, length: int) -> None:
        self._data[at : at + _LENGTH_BYTES] = length.to_bytes(_LENGTH_BYTES, "little")


class RingReader:
    """The reading end of a new ring; arguments as above."""

    def __init__(self, memory: memoryview, wake_fd: int) -> None:
        self._read = memory[:_HEADER_BYTES].cast("Q")
        self._data = memory[_HEADER_BYTES:]
        self._capacity = len(self._data)
        self._wake_fd = wake_fd
        self._done = self._end = 0

    @property
    def waiting(self) -> bool:
        """Whether there are records that `read` has left."""
        return self._done < self._end

    def read(self, most: int) -> Iterator[memoryview]:
        """The next records, up to `most`; none when there are none. Each is valid until the next is asked for.

        Call it when the eventfd, which must not block, is readable, or when records are `waiting`. The iteration must
        be finished.
        """
        with suppress(BlockingIOError):
            self._end += os.eventfd_read(self._wake_fd)
        while most and self.waiting:
            start = self._done % self._capacity
            size = int.from_bytes(self._data[start : start + _LENGTH_BYTES], "little")
            if size == _WRAPPED:
                self._done += self._capacity - start
                continue
            try:
                yield self._data[start + _LENGTH_BYTES : start + _LENGTH_BYTES + size]
            finally:  # a record that its reader cannot bear must not come again
                self._done += record_bytes(size)
                self._read[0] = self._done
            most -= 1
