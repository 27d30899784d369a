"""Gathers the calls of many callers into few requests, without making any of them wait for company.

A call that finds no request under way leaves at once. Those that come while one is under way wait for its end, and then
leave together. Each caller gets the answer for its own images; what becomes of one is nothing to the others, since
every call was checked before it came here.

This is the part without a transport: who sends, and on which thread or event loop, is the client's matter. Whoever is
told by `add` to send goes on with `take` and then `answer` or `fail`, until `take` gives nothing.
"""

import asyncio
import copy
import dataclasses
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from clients.answers import Classification
from clients.errors import InvalidImages, ServerBusy, ServerError

IMAGE_BYTES = 28 * 28

# A request of this size takes a server some milliseconds; larger ones would only make those wait who come after it.
MOST_IMAGES = 256
MOST_WAITING_IMAGES = 64 * MOST_IMAGES


class Kind(NamedTuple):
    """What calls must agree on to share a request."""

    model: str
    version: str
    top_k: int


@dataclass(eq=False, kw_only=True, slots=True)
class Part:
    """One caller's part of a request.

    Attributes:
        kind: With which others it may share a request.
        pixels: Its images, 784 bytes each.
        deadline: When its caller gives up, by the monotonic clock.
        answer: What its caller waits for.
        withdrawn: Whether its caller has given up.
    """

    kind: Kind
    pixels: bytes
    deadline: float
    answer: "Future[Classification] | asyncio.Future[Classification]"
    withdrawn: bool = False

    @property
    def images(self) -> int:
        """How many."""
        return len(self.pixels) // IMAGE_BYTES


class Coalescer:
    """Who waits, and for each kind of calls whether a request is under way. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most_images = MOST_IMAGES
        self._waiting_images = 0
        # A kind is a key for as long as somebody sends its requests.
        self._waiting: dict[Kind, deque[Part]] = {}

    def add(self, part: Part) -> bool:
        """Let a part wait for the next request.

        Returns:
            Whether the caller has to see that requests of this kind are sent, as nobody does.

        Raises:
            ServerBusy: Too many wait.
        """
        with self._lock:
            if self._waiting_images + part.images > MOST_WAITING_IMAGES:
                raise ServerBusy(
                    f"{self._waiting_images} images wait in this client; {MOST_WAITING_IMAGES} may; try later"
                )
            self._waiting_images += part.images
            idle = part.kind not in self._waiting
            self._waiting.setdefault(part.kind, deque()).append(part)
            return idle

    def withdraw(self, part: Part) -> None:
        """Its caller has given up: it is not sent, unless it has been already."""
        with self._lock:
            part.withdrawn = True
            waiting = self._waiting.get(part.kind)
            if waiting and part in waiting:
                waiting.remove(part)
                self._waiting_images -= part.images

    def take(self, kind: Kind) -> list[Part]:
        """The parts of the next request, first come first served. None: there is nothing to send, and `add` says so."""
        with self._lock:
            waiting = self._waiting[kind]
            parts: list[Part] = []
            room = self._most_images
            while waiting and (not parts or waiting[0].images <= room):
                part = waiting.popleft()
                parts.append(part)
                room -= part.images
            self._waiting_images -= sum(part.images for part in parts)
            if not parts:
                del self._waiting[kind]
            return parts

    def answer(self, parts: Sequence[Part], answer: Classification) -> None:
        """Give each caller its own share of a request's answer."""
        images = sum(part.images for part in parts)
        if len(answer.predictions) != images:
            self.fail(parts, ServerError(f"{len(answer.predictions)} of {images} images were answered; try again"))
            return
        start = 0
        for part in parts:
            share = answer.predictions[start : start + part.images]
            start += part.images
            if not part.answer.done():
                part.answer.set_result(dataclasses.replace(answer, predictions=share))

    def fail(self, parts: Sequence[Part], error: Exception) -> None:
        """Tell each caller why the request failed.

        A server that refuses several as invalid takes fewer images in a request than were gathered, as each alone is
        valid: they wait again, and half as many leave at a time from now on.
        """
        if isinstance(error, InvalidImages) and len(parts) > 1:
            self._put_back(parts)
            return
        for part in parts:
            if not part.answer.done():
                part.answer.set_exception(copy.copy(error))  # a traceback of its own

    def _put_back(self, parts: Sequence[Part]) -> None:
        with self._lock:
            again = [part for part in parts if not part.withdrawn]
            self._most_images = max(1, sum(part.images for part in parts) // 2)
            self._waiting_images += sum(part.images for part in again)
            self._waiting[parts[0].kind].extendleft(reversed(again))
