"""The two rings between one front end and the owner. A link lives as long as both; the next pair gets a new one."""

import asyncio
import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from serve.config import ServeConfig
from serve.engines import IMAGE_BYTES
from serve.frontends import messages
from serve.frontends.messages import Message
from serve.frontends.ring import RingReader, RingWriter, memory_bytes

# Of one link, before others have their turn.
_MESSAGES_AT_ONCE = 16


@dataclass(frozen=True)
class Link:
    """A link's file descriptors: memory of two rings, and an eventfd for each.

    Attributes:
        memory_fd: The rings, first the one to the owner.
        to_owner_fd: Wakes the owner.
        to_frontend_fd: Wakes the front end.
    """

    memory_fd: int
    to_owner_fd: int
    to_frontend_fd: int

    @classmethod
    def create(cls, config: ServeConfig) -> Self:
        """Make a link that nobody uses yet.

        Raises:
            OSError: This process has no file left for it.
        """
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        with ExitStack() as failed:
            memory_fd = os.memfd_create("digits-link", os.MFD_CLOEXEC)
            failed.callback(os.close, memory_fd)
            os.ftruncate(memory_fd, 2 * memory_bytes(ring_bytes(config)))
            to_owner_fd = os.eventfd(0, flags)
            failed.callback(os.close, to_owner_fd)
            link = cls(memory_fd, to_owner_fd, os.eventfd(0, flags))
            failed.pop_all()
        return link

    @property
    def fds(self) -> list[int]:
        """What another process needs."""
        return [self.memory_fd, self.to_owner_fd, self.to_frontend_fd]

    def close(self) -> None:
        """Give up this process's share."""
        for fd in self.fds:
            os.close(fd)


def ring_bytes(config: ServeConfig) -> int:
    """How many bytes of records each ring of a link holds.

    Enough that the queue is full before the ring is: four times a full queue of images on the way there, and of the
    shortest answers, for which the room of a refusal is set aside, on the way back.
    """
    return max(4 << 20, 4 * config.queue_images * max(IMAGE_BYTES, messages.REFUSAL_BYTES))


class End:
    """One process's end of a link: sends messages, and hands those that come to `on_message`, on the event loop."""

    def __init__(self, link: Link, *, is_owner: bool, on_message: Callable[[Message], None]) -> None:
        self._link = link
        self._open = True
        self._on_message = on_message
        memory = memoryview(mmap.mmap(link.memory_fd, 0))
        half = len(memory) // 2
        to_owner, to_frontend = (memory[:half], link.to_owner_fd), (memory[half:], link.to_frontend_fd)
        self._writer = RingWriter(*(to_frontend if is_owner else to_owner))
        self._reader = RingReader(*(to_owner if is_owner else to_frontend))
        self._wake_fd = link.to_owner_fd if is_owner else link.to_frontend_fd
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._wake_fd, self._on_readable)

    def send(self, parts: messages.Parts) -> bool:
        """Send a message; False if there is no room for it."""
        return self._writer.write(*parts)

    def close(self) -> None:
        """Neither send nor receive any more."""
        self._open = False
        self._loop.remove_reader(self._wake_fd)
        self._link.close()

    def _on_readable(self) -> None:
        if not self._open:
            return
        for record in self._reader.read(_MESSAGES_AT_ONCE):
            self._on_message(messages.read(record))
            if not self._open:  # a message can end its own link
                return
        if self._reader.waiting:
            self._loop.call_soon(self._on_readable)
