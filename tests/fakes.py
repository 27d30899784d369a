"""Working stand-ins for what cannot be had, or cannot be made to fail, in a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from serve.engines import Pixels, Probabilities
from serve.estimate import EngineTime


def images(count: int, seed: int = 0) -> Pixels:
    """Distinct images, uint8 [count, 1, 28, 28], so that a mix-up shows."""
    return np.random.default_rng(seed).integers(1, 256, (count, 1, 28, 28), dtype=np.uint8)


def answer_for(pixels: Pixels) -> Probabilities:
    """What a `FakeEngine` answers: the first ten pixels of each image."""
    return pixels[:, 0, 0, :10].astype(np.float32) / 255


class FakeEngine:
    """An engine whose answer depends on the image, which can be held inside a call and made to misbehave.

    Attributes:
        batches: The pixels of every call, the warm-up's (black images) not included.
        misbehave: Takes the place of the next answers, one call each: given the pixels, it returns or raises.
    """

    name = "fake"
    device = "cpu"
    precision = "fp32"

    def __init__(self) -> None:
        self.batches: list[Pixels] = []
        self.misbehave: list[Callable[[Pixels], Probabilities]] = []
        self.thread: threading.Thread | None = None
        self._inside = threading.Semaphore(0)
        self._proceed = threading.Semaphore(0)
        self._held = False

    @contextmanager
    def open(self) -> Iterator["FakeEngine"]:
        """For `Batcher(open_engine=…)`."""
        self.thread = threading.current_thread()
        yield self

    def hold(self) -> None:
        """Let every following call stay inside the engine until it is released."""
        self._held = True

    def release(self) -> None:
        """Let the held call, and all following ones, return."""
        self._held = False
        self._proceed.release()

    def wait_until_inside(self) -> None:
        """Block until a call is inside the engine; once per call."""
        assert self._inside.acquire(timeout=30), "no call reached the engine"

    def run(self, pixels: Pixels) -> Probabilities:
        if not pixels.any():
            return answer_for(pixels)
        self.batches.append(pixels.copy())
        self._inside.release()
        if self._held:
            assert self._proceed.acquire(timeout=30), "the test never released the engine"
        if self.misbehave:
            return self.misbehave.pop(0)(pixels)
        return answer_for(pixels)


class Line(EngineTime):
    """An engine that takes 10 s to begin and 1 s for each image, whatever is observed."""

    def observe(self, count: int, seconds: float) -> None:
        pass

    def __call__(self, count: int) -> float:
        return 10.0 + count


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._read = threading.Event()

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            self._read.set()
        return self.now

    def forget(self) -> None:
        """Have `wait_until_read` wait for a reading that is yet to come."""
        self._read.clear()

    def wait_until_read(self) -> None:
        """Block until a thread that is not the event loop's has read it."""
        assert self._read.wait(timeout=30), "no engine thread looked at the clock"
