"""Rings: what is written is read, in order, whole, and never over what has not been read."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.frontends.ring import RingReader, RingWriter, memory_bytes, record_bytes

CAPACITY = 128


@pytest.fixture
def wake_fd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def ring(wake_fd: int, capacity: int = CAPACITY) -> tuple[RingWriter, RingReader]:
    memory = memoryview(bytearray(memory_bytes(capacity)))
    return RingWriter(memory, wake_fd), RingReader(memory, wake_fd)


def read(reader: RingReader) -> list[bytes]:
    return [bytes(record) for record in reader.read(most=1000)]


def test_records_come_out_whole_and_in_order(wake_fd: int) -> None:
    writer, reader = ring(wake_fd)
    assert writer.write(b"one")
    assert writer.write(b"", b"two", b"three")
    assert writer.write()
    assert read(reader) == [b"one", b"twothree", b""]
    assert read(reader) == []


def test_a_full_ring_refuses_and_loses_nothing(wake_fd: int) -> None:
    writer, reader = ring(wake_fd)
    written = [bytes([number]) * 20 for number in range(CAPACITY // record_bytes(20))]
    assert all(writer.write(record) for record in written)
    assert not writer.write(b"x" * 20)
    assert read(reader) == written
    assert writer.write(b"x" * 20)
    assert read(reader) == [b"x" * 20]


def test_a_record_is_overwritten_only_when_its_successor_is_asked_for(wake_fd: int) -> None:
    writer, reader = ring(wake_fd)
    writer.write(b"a" * 100)
    records = reader.read(most=9)
    first = next(records)
    assert not writer.write(b"b" * 100)
    assert bytes(first) == b"a" * 100
    assert list(records) == []
    assert writer.write(b"b" * 100)


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=80))
def test_any_mixture_of_sizes_and_reads_is_a_queue(steps: list[tuple[int, bool]]) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        writer, reader = ring(fd)
        waiting: list[bytes] = []
        for number, (size, drain) in enumerate(steps):
            record = bytes([number % 256]) * size
            if writer.write(record):
                waiting.append(record)
            else:
                # Wrapping around wastes at most the length of the record that wrapped.
                sizes = [record_bytes(len(each)) for each in (*waiting, record)]
                assert sum(sizes) + max(sizes) > CAPACITY
            if drain:
                assert read(reader) == waiting
                waiting.clear()
        assert read(reader) == waiting
    finally:
        os.close(fd)


READER = """
import mmap, os, select, sys, zlib
from serve.frontends.ring import RingReader, memory_bytes
memory_fd, wake_fd, count, capacity = map(int, sys.argv[1:])
reader = RingReader(memoryview(mmap.mmap(memory_fd, memory_bytes(capacity))), wake_fd)
digest = 0
while count:
    if not reader.waiting:
        select.select([wake_fd], [], [])
    for record in reader.read(most=50):
        digest = zlib.crc32(record, digest)
        count -= 1
print(digest)
"""


def test_another_process_reads_what_this_one_writes() -> None:
    import mmap
    import zlib

    capacity, count = 4096, 20_000
    memory_fd, wake_fd = os.memfd_create("ring"), os.eventfd(0, os.EFD_NONBLOCK)
    os.ftruncate(memory_fd, memory_bytes(capacity))
    writer = RingWriter(memoryview(mmap.mmap(memory_fd, memory_bytes(capacity))), wake_fd)
    words = [sys.executable, "-c", READER, *map(str, (memory_fd, wake_fd, count, capacity))]
    with subprocess.Popen(words, pass_fds=(memory_fd, wake_fd), stdout=subprocess.PIPE, text=True) as process:
        chance, digest = random.Random(0), 0
        for _ in range(count):
            record = chance.randbytes(chance.randrange(200))
            digest = zlib.crc32(record, digest)
            while not writer.write(record):
                pass
        output, _ = process.communicate(timeout=60)
    os.close(memory_fd)
    os.close(wake_fd)
    assert int(output) == digest


def test_what_is_left_unread_waits(wake_fd: int) -> None:
    writer, reader = ring(wake_fd)
    for record in (b"a", b"b", b"c"):
        writer.write(record)
    assert [bytes(record) for record in reader.read(most=2)] == [b"a", b"b"]
    assert reader.waiting
    assert read(reader) == [b"c"]
    assert not reader.waiting
