"""What waits for an engine, in order of arrival. No clock, no thread, no transport: `batcher` brings those."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from serve.engines import CLASSES, Pixels, Probabilities


class Waiter(Protocol):
    """Who waits for a job's answer. `asyncio.Future` is one."""

    def done(self) -> bool:
        """True when nobody waits any more: answered, failed or cancelled."""


@dataclass(eq=False, kw_only=True, slots=True)
class Job:
    """One request: its images, its deadline, and what came back so far. Times are seconds of one monotonic clock."""

    pixels: Pixels
    deadline: float
    arrived: float
    waiter: Waiter
    taken: int = 0
    answered: int = 0
    started: float = 0.0
    largest_batch: int = 0
    probabilities: Probabilities = field(init=False)

    def __post_init__(self) -> None:
        """Make room for the answer."""
        self.probabilities = np.empty((len(self.pixels), CLASSES), np.float32)

    @property
    def waiting(self) -> int:
        """Images that no engine has taken yet."""
        return len(self.pixels) - self.taken


class Slice(NamedTuple):
    """Images `start` to `stop` of a job: the part of it that runs in one batch."""

    job: Job
    start: int
    stop: int


class Queue:
    """First in, first out, bounded in images. A job larger than a batch leaves in several slices."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.images = 0
        self._jobs: OrderedDict[Job, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def has_room(self, images: int) -> bool:
        """Whether so many images more would still be within the capacity."""
        return self.images + images <= self.capacity

    def put(self, job: Job) -> None:
        """Append a job; the caller has asked `has_room` first."""
        assert self.has_room(job.waiting), "this is a bug: a job was queued beyond the capacity"
        self._jobs[job] = None
        self.images += job.waiting

    def discard(self, job: Job) -> None:
        """Forget a job whose caller has gone. Its room is free at once."""
        if job in self._jobs:
            del self._jobs[job]
            self.images -= job.waiting

    def open_until(self, delay_s: float, engine_s: float) -> float:
        """Until when what waits, which is something, may wait for more images without missing anybody's deadline.

        Args:
            delay_s: How long the oldest job may wait.
            engine_s: How long the batch may take, whatever else comes into it.
        """
        oldest = next(iter(self._jobs))
        # A tenth of what a caller has given is left for what comes before and after the engine.
        ends = [job.deadline - 0.1 * (job.deadline - job.arrived) for job in self._jobs if job.deadline < math.inf]
        return min(oldest.arrived + delay_s, min(ends, default=math.inf) - engine_s)

    def take(
        self, max_images: int, now: float, engine_time: Callable[[int], float], expired: Callable[[Job], None]
    ) -> list[Slice]:
        """Remove and return up to `max_images` images in order of arrival; empty when nobody is waiting.

        A job whose caller has gone is dropped; one that an engine that takes `engine_time` for so many images would not
        answer by its deadline is dropped and given to `expired`.
        """
        batch: list[Slice] = []
        room = max_images
        while self._jobs and room:
            job = next(iter(self._jobs))
            count = min(room, job.waiting)
            if job.waiter.done() or job.deadline <= now + engine_time(max_images - room + count):
                self.discard(job)
                if not job.waiter.done():
                    expired(job)
                continue
            batch.append(Slice(job, job.taken, job.taken + count))
            job.taken += count
            self.images -= count
            room -= count
            if not job.waiting:
                del self._jobs[job]
        return batch

    def clear(self) -> None:
        """Forget every job."""
        self._jobs.clear()
        self.images = 0
