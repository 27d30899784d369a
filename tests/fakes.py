"""Working stand-ins for what cannot be had, or cannot be made to fail, in a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from serve.engines import Pixels, Probabilities


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
