"""Tuning: a virtual clock for the batch, real threads for the engines side by side."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from serve.engines.engine import Engine, OpenEngine, Pixels, Probabilities
from serve.engines.tuning import Tuner, tune
from serve.errors import StartupError


class Timed:
    """An engine whose calls take `start_s` and `image_s` for each image, by a clock of its own."""

    name, device, precision = "timed", "cpu", "fp32"

    def __init__(self, start_s: float, image_s: float) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self._start_s, self._image_s = start_s, image_s

    @contextmanager
    def open(self) -> Iterator[Engine]:
        yield self

    def run(self, pixels: Pixels) -> Probabilities:
        self.sizes.append(len(pixels))
        self.now += self._start_s + self._image_s * len(pixels)
        return np.zeros((len(pixels), 10), np.float32)


@pytest.mark.parametrize(
    ("start_s", "image_s", "batch"),
    [
        (0.0, 40e-6, 32),  # 0.1 ms around a call weigh little from here on
        (0.0, 400e-6, 4),
        (0.01, 1e-6, 1),  # every call takes long, whatever its size
        (0.002, 10e-6, 128),  # a call costs much to begin
    ],
)
def test_the_batch_is_the_smallest_that_is_nearly_as_fast_as_any(start_s: float, image_s: float, batch: int) -> None:
    engine = Timed(start_s, image_s)
    assert tune(engine.open, most_slots=1, clock=lambda: engine.now).batch == batch


def test_batches_whose_callers_would_wait_too_long_are_not_tried() -> None:
    engine = Timed(0.0, 0.005)
    tune(engine.open, most_slots=1, clock=lambda: engine.now)
    assert max(engine.sizes) <= 4


def sleeping(running: threading.Semaphore) -> OpenEngine:
    """Engines of which so many can be inside a call at once as the semaphore lets."""

    class Sleeping(Timed):
        def run(self, pixels: Pixels) -> Probabilities:
            with running:
                time.sleep(0.002)
            return super().run(pixels)

    def open_engine() -> AbstractContextManager[Engine]:
        return Sleeping(0.0, 0.0).open()

    return open_engine


def test_as_many_engines_are_taken_as_are_of_use() -> None:
    assert tune(sleeping(threading.Semaphore(4)), most_slots=4).slots == 4


def test_a_kind_of_model_is_measured_once() -> None:
    tuner, engine = Tuner(), Timed(0.0, 1e-5)
    first = tuner.tune(("compact", "model.onnx"), engine.open, most_slots=1)
    calls = len(engine.sizes)
    assert tuner.tune(("compact", "model.onnx"), engine.open, most_slots=1) is first
    assert len(engine.sizes) == calls
    tuner.tune(("compact", "model.int8.onnx"), engine.open, most_slots=1)
    assert len(engine.sizes) > calls


def test_an_engine_that_cannot_be_opened_a_second_time_is_said_to_be_so() -> None:
    opened: list[int] = []

    @contextmanager
    def open_engine() -> Iterator[Engine]:
        opened.append(1)
        if len(opened) == 3:
            raise StartupError("no memory for another engine")
        yield Timed(0.0, 0.0)

    with pytest.raises(StartupError, match="no memory"):
        tune(open_engine, most_slots=2)
