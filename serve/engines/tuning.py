"""How large a batch, and how many engines side by side, serve a model best on this CPU: measured, at the start.

A larger batch than needed only makes its callers wait for each other. More engines than the cores can run at once only
make each other slower.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serve.engines.engine import IMAGE_SHAPE, Engine, OpenEngine

# What the batcher and its threads take for one engine call, besides the engine: about this on the machines seen.
_BATCHER_S = 1e-4

# The smallest batch that reaches this share of the best rate is large enough.
_ENOUGH = 0.9
# The most engines that reach this share of the best rate are not too many: when they are idle they cost nothing.
_NOT_WORSE = 0.9

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# The best of some: what neighbours take of the machine only ever makes it look slower than it is.
_CALLS = 3
_ROUNDS = 3
_SIDE_BY_SIDE_S = 0.05

# Larger batches are not tried when calls take so long: all callers of a batch wait for its end.
_LONGEST_CALL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How many engines, and the most images in one call."""

    slots: int
    batch: int


class Tuner:
    """Measures each kind of model once: a later one of the kind is loaded beside others that are at work."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Tuning] = {}

    def tune(self, kind: tuple[str, str], open_engine: OpenEngine, *, most_slots: int) -> Tuning:
        """What a model is best served with.

        Args:
            kind: Its architecture and its file.
            open_engine: Opens one engine of it.
            most_slots: Most engines to try.
        """
        if kind not in self._known:
            self._known[kind] = tune(open_engine, most_slots=most_slots)
        return self._known[kind]


def tune(open_engine: OpenEngine, *, most_slots: int, clock: Callable[[], float] = time.perf_counter) -> Tuning:
    """Measure; arguments as above."""
    with open_engine() as engine:
        rates = {size: size / (seconds + _BATCHER_S) for size, seconds in _calls(engine, clock)}
    batch = min(_within(_ENOUGH, rates))
    if most_slots == 1:
        return Tuning(slots=1, batch=batch)
    rounds = [
        {slots: _side_by_side(open_engine, slots, batch) for slots in _doubling(most_slots)} for _ in range(_ROUNDS)
    ]
    together = {slots: max(each[slots] for each in rounds) for slots in rounds[0]}
    return Tuning(slots=max(_within(_NOT_WORSE, together)), batch=batch)


def _within(share: float, rates: dict[int, float]) -> list[int]:
    """The numbers whose rate is at least this share of the best."""
    best = max(rates.values())
    return [number for number, rate in rates.items() if rate >= share * best]


def _calls(engine: Engine, clock: Callable[[], float]) -> Iterator[tuple[int, float]]:
    """Sizes, and the seconds that a call with so many images takes."""
    for size in _SIZES:
        pixels = np.zeros((size, *IMAGE_SHAPE), np.uint8)
        engine.run(pixels)  # the first call allocates
        seconds = []
        for _ in range(_CALLS):
            started = clock()
            engine.run(pixels)
            seconds.append(clock() - started)
        yield size, min(seconds)
        if 2 * min(seconds) > _LONGEST_CALL_S:
            return


def _side_by_side(open_engine: OpenEngine, slots: int, batch: int) -> float:
    """Calls that so many engines complete at once, each on a thread of its own."""
    start = threading.Barrier(slots)

    def work(_: int) -> int:
        calls = 0
        with open_engine() as engine:
            pixels = np.zeros((batch, *IMAGE_SHAPE), np.uint8)
            engine.run(pixels)
            start.wait()
            end = time.perf_counter() + _SIDE_BY_SIDE_S
            while time.perf_counter() < end:
                engine.run(pixels)
                calls += 1
        return calls

    def work_or_abort(index: int) -> int:
        try:
            return work(index)
        except BaseException:
            start.abort()  # nobody may be left waiting for this one
            raise

    with ThreadPoolExecutor(slots) as pool:
        ended = [pool.submit(work_or_abort, index) for index in range(slots)]
    errors = [error for each in ended if (error := each.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return sum(each.result() for each in ended)


def _doubling(most: int) -> Iterator[int]:
    number = 1
    while number < most:
        yield number
        number *= 2
    yield most
