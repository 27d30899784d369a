"""How many engines side by side, and how large a batch, this CPU is best used with: measured, in a second or so.

Larger batches than needed only make their callers wait for each other; more engines than there are cores to run them,
as in a container with a share of a machine, only make them wait for each other, too.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from serve.engines.engine import IMAGE_SHAPE, Engine, OpenEngine

# What gives this share of the best is good enough.
_GOOD_ENOUGH = 0.95

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

# An engine call that takes longer than this is not made larger, whatever it gains: all of its callers wait for it.
_LONGEST_CALL_S = 0.02

_CALLS = 5
_SIDE_BY_SIDE_S = 0.15


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was found to be best."""

    slots: int
    batch: int


def tune(open_engine: OpenEngine, *, most_slots: int, clock: Callable[[], float] = time.perf_counter) -> Tuning:
    """Measure a model's engine.

    Args:
        open_engine: Opens one engine.
        most_slots: Most engines that are worth trying.
        clock: Seconds.
    """
    with open_engine() as engine:
        batch = knee({size: size / seconds for size, seconds in _calls(engine, clock)})
    rates: dict[int, float] = {}
    for slots in _doubling(most_slots):
        rates[slots] = _side_by_side(open_engine, slots, batch)
    return Tuning(slots=knee(rates), batch=batch)


def knee(rates: dict[int, float]) -> int:
    """The smallest of some numbers whose rate is good enough.

    Args:
        rates: Of each number, what it gives: images a second.
    """
    best = max(rates.values())
    return min(number for number, rate in rates.items() if rate >= _GOOD_ENOUGH * best)


def _calls(engine: Engine, clock: Callable[[], float]) -> Iterator[tuple[int, float]]:
    """Sizes, and how many seconds a call takes with so many images."""
    for size in _SIZES:
        pixels = np.zeros((size, *IMAGE_SHAPE), np.uint8)
        engine.run(pixels)  # the first call allocates
        times = []
        for _ in range(_CALLS):
            started = clock()
            engine.run(pixels)
            times.append(clock() - started)
        seconds = statistics.median(times)
        yield size, seconds
        if 2 * seconds > _LONGEST_CALL_S:
            return


def _side_by_side(open_engine: OpenEngine, slots: int, batch: int) -> float:
    """Images a second of so many engines at once, each on a thread of its own."""
    calls = [0] * slots
    start = threading.Barrier(slots)

    def work(index: int) -> None:
        with open_engine() as engine:
            pixels = np.zeros((batch, *IMAGE_SHAPE), np.uint8)
            engine.run(pixels)
            start.wait()
            end = time.perf_counter() + _SIDE_BY_SIDE_S
            while time.perf_counter() < end:
                engine.run(pixels)
                calls[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(calls) * batch / _SIDE_BY_SIDE_S


def _doubling(most: int) -> Iterator[int]:
    number = 1
    while number < most:
        yield number
        number *= 2
    yield most
