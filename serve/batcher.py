"""Dynamic batching: many callers on one event loop, a few engines each on a thread of its own.

A free engine takes what is waiting, at once and up to the largest batch; nothing waits for a batch to fill, unless a
delay is configured. So batches grow exactly when the engines are the bottleneck. Where engines share the cores with
everything else, a further one begins only where what waits is worth it, and a millisecond may be waited for requests
that are known to be on their way.

What one caller does never changes what another gets: pixels are checked before they come here; a request that would
not be answered by its deadline is refused at once, by what is known of the engine's speed; a caller that left, or
whose deadline can no longer be met, is dropped before its images reach an engine; an engine's failure goes to the
callers of that batch and no further; and answers are handed out one by one.

Lifecycle: construct, `start` (opens and warms up every engine), `submit` many times, `drain` (answers what was
accepted, refuses the rest), or `abort` (fails what is left). `start` and the callers' coroutines share one event loop.

A request larger than the largest batch is split and answered whole.
"""

import asyncio
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, cast

import numpy as np

from serve.engines import CLASSES, IMAGE_SHAPE, Engine, OpenEngine, Pixels, Probabilities
from serve.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    Draining,
    EngineFault,
    EngineLost,
    QueueFull,
    ServeError,
    Unavailable,
)
from serve.estimate import EngineTime
from serve.queue import Job, Queue, Slice

log = logging.getLogger(__name__)

# Where engines share the cores with everything else, another engine takes from the others what they need. It is worth
# that where the images of a request take an engine longer than the request itself takes to be read and answered, or
# where so much waits that it matters no more. 64 callers with single images get a seventh to a third more of two cores
# than where every arrival wakes an engine, at a lower latency; callers with many images as much as then.
_REQUEST_S = 2e-4
_BACKLOG_S = 8e-3

# Likewise an engine waits up to so long while more requests are on their way: each engine call costs the others some
# hand-overs of the interpreter, and 64 callers get a fifth to a third more where batches are not cut into slices of
# three. A caller who is alone does not wait.
_ARRIVAL_S = 1e-3

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a caller gets. Times are in seconds.

    Attributes:
        probabilities: float32 [N, 10], in the order of the caller's images.
        queue_s: From arrival until an engine took the first image.
        compute_s: From then until the last image was done.
        batch_size: Images in the engine call, other callers' included; the largest if there were several.
    """

    probabilities: Probabilities
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(kw_only=True)
class Counts:
    """Requests by what became of them, images and engine calls, and seconds. Written by the event loop only.

    An answered request's seconds, from arrival to answer, are summed up as four: `queue_s` until an engine took its
    first image, `input_s` while its last batch was put together, `infer_s` in the engine, `output_s` from there to the
    caller. `unanswered_s` is what all others spent waiting.
    """

    accepted: int = 0
    answered: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    images: int = 0
    executions: int = 0
    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    unanswered_s: float = 0.0


Closed: TypeAlias = Literal["full", "empty", "delay"]
"""Why no more images were added to a batch: there was no room, nothing more was waiting, or the delay was over."""


class BatchObserver:
    """Sees what a batcher does. It is called on the event loop, and is quick; this one looks away."""

    def executed(self, images: int, seconds: float, closed: Closed) -> None:
        """An engine call has succeeded."""

    def failed(self) -> None:
        """An engine call has failed."""

    def answered(self, answer: Answer) -> None:
        """A request has been answered. Its probabilities do not change any more."""


class Batcher:
    """Feeds callers' images to engines in batches.

    Args:
        open_engine: Opens one engine; called once on each engine thread.
        slots: Engine threads.
        max_batch: Most images in one engine call.
        queue_images: Most images waiting; what would exceed it is refused.
        shares_cores: Whether the engines compute on the cores that callers' requests are read and answered on, too.
        arriving: How many requests are known to be on their way; asked on the engine threads.
        max_queue_delay_s: How long a free engine may wait after the oldest request's arrival for a batch to fill.
        observer: Is told of engine calls and answers.
        on_failure: Called on the event loop, once, when an engine thread has died and no request can be served.
        engine_time: What is known of the engine's speed; it learns from every call.
        clock: Seconds; the clock of all deadlines.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        *,
        slots: int,
        max_batch: int,
        queue_images: int,
        shares_cores: bool = False,
        arriving: Callable[[], int] = lambda: 0,
        max_queue_delay_s: float = 0.0,
        observer: BatchObserver | None = None,
        on_failure: Callable[[], None] = lambda: None,
        engine_time: EngineTime | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self.max_batch = max_batch
        self._open_engine = open_engine
        self._slots = slots
        self._shares_cores = shares_cores
        self._arriving = arriving
        self._max_queue_delay_s = max_queue_delay_s
        self._observer = observer or BatchObserver()
        self._on_failure = on_failure
        self._clock = clock
        self._ended: list[asyncio.Future[None]] = []
        # Made anew for every caller: an exception that is kept would keep the callers' frames.
        self._refusal: Callable[[], Unavailable] | None = functools.partial(Unavailable, "the server is starting")
        self._accepted: set[Job] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed = False
        self._engine_time = engine_time or EngineTime()
        # When each slot's call is expected to end; written by the engine threads, each its own entry.
        self._busy_until: dict[int, float] = dict.fromkeys(range(slots), -math.inf)
        # Guards all that follows, which engine threads share with the loop. Held for microseconds.
        self._condition = threading.Condition()
        self._queue = Queue(queue_images)
        self._working = 0
        self._filling = 0
        self._stopping = False

    async def start(self) -> Engine:
        """Open and warm up an engine on every thread, then accept requests.

        Returns:
            The first engine, for its description only.

        Raises:
            Exception: Whatever opening or the first run raised. No thread is left behind.
        """
        self._loop = asyncio.get_running_loop()
        ready = [self._loop.create_future() for _ in range(self._slots)]
        self._ended = [self._loop.create_future() for _ in range(self._slots)]
        for index, futures in enumerate(zip(ready, self._ended, strict=True)):
            # A daemon, so that an engine call that never returns cannot keep the process alive.
            threading.Thread(target=self._work, args=(index, *futures), name=f"engine-{index}", daemon=True).start()
        try:
            engines = await asyncio.gather(*ready)
        except BaseException:
            await self._stop(timeout_s=1.0)
            raise
        if not self._failed:
            self._refusal = None
        return cast(Engine, engines[0])

    @property
    def refusal(self) -> str | None:
        """Why no requests are accepted; None while they are."""
        return str(self._refusal()) if self._refusal else None

    @property
    def failed(self) -> bool:
        """Whether an engine thread has died."""
        return self._failed

    @property
    def queued_images(self) -> int:
        """Images that wait for an engine. May be read on any thread."""
        return self._queue.images

    @property
    def in_flight(self) -> int:
        """Requests accepted and not answered yet. May be read on any thread."""
        return len(self._accepted)

    async def submit(self, pixels: Pixels, *, deadline: float = math.inf) -> Answer:
        """`enqueue`, and wait. Arguments and errors as there."""
        return await self.enqueue(pixels, deadline=deadline)

    def enqueue(self, pixels: Pixels, *, deadline: float = math.inf) -> "asyncio.Future[Answer]":
        """Classify one caller's images.

        Args:
            pixels: uint8 [N, 1, 28, 28], N of at least 1. The array must not change until the answer is there.
            deadline: When the answer has lost its use, in seconds of the batcher's clock. Images that still wait then
                never reach an engine; who does not want to wait for an engine that is at it cancels.

        Returns:
            The answer to come; cancelling it takes the images out of the queue.

        Raises:
            QueueFull: No room for N images more.
            DeadlineUnreachable: By what is known of the engine, the answer would come too late.
            DeadlineExceeded: The deadline passed before the images reached an engine, or came too near.
            Unavailable: Not started, draining, or an engine thread has died.
            EngineFault: The engine failed on one of this caller's batches.
            The last three come through the answer, too, when they happen later.
        """
        assert pixels.dtype == np.uint8, "this is a bug: pixels are checked before the queue"
        assert len(pixels) > 0, "this is a bug: empty requests are refused before the queue"
        assert pixels.shape[1:] == IMAGE_SHAPE, "this is a bug: shapes are checked before the queue"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = Job(pixels=pixels, deadline=deadline, arrived=self._clock(), waiter=answer)
        self._admit(job)
        answer.add_done_callback(functools.partial(self._forget, job))
        return answer

    async def drain(self) -> None:
        """Refuse new requests, wait until the accepted ones are answered, then end the engine threads."""
        self._refusal = self._refusal or functools.partial(Draining, "the server is draining")
        with self._condition:
            self._condition.notify_all()  # a batch that waits for more waits in vain
        await self._idle.wait()
        await self._stop()

    async def abort(self) -> int:
        """Refuse new requests, fail the accepted ones at once, and end the engine threads.

        A thread whose engine does not return within a second is left behind.

        Returns:
            How many requests were failed.
        """
        unanswered = len(self._accepted)
        self._fail(functools.partial(Draining, "the server is shutting down"))
        await self._stop(timeout_s=1.0)
        return unanswered

    def _admit(self, job: Job) -> None:
        if self._refusal:
            raise self._refusal()
        if job.deadline <= job.arrived:
            self.counts.expired += 1
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        with self._condition:
            if not self._queue.has_room(job.waiting):
                self.counts.refused += 1
                raise QueueFull(
                    f"the queue holds {self._queue.images} of at most {self._queue.capacity} images, "
                    f"no room for {job.waiting} more; try again later or elsewhere",
                    retry_after_s=self._seconds_until(0, job.arrived),
                )
            if (late := job.arrived + self._seconds_until(job.waiting, job.arrived) - job.deadline) > 0:
                self.counts.refused += 1
                self._doubt_if_idle(job.arrived)
                raise DeadlineUnreachable(
                    f"with {self._queue.images} images waiting the answer would come {late * 1000:.1f} ms after the "
                    "deadline; allow more time, or try again later or elsewhere",
                    retry_after_s=self._seconds_until(0, job.arrived),
                )
            self._queue.put(job)
            self._wake()
        self.counts.accepted += 1
        self._accepted.add(job)
        self._idle.clear()

    def _seconds_until(self, images: int, now: float) -> float:
        """How long it takes until so many images more would be done, after all that is under way and waiting."""
        busy = [max(0.0, end - now) for end in self._busy_until.values()]
        batches, rest = divmod(self._queue.images + images, self.max_batch)
        work = batches * self._engine_time(self.max_batch) + (self._engine_time(rest) if rest else 0.0)
        # The slots share the work, but no request is done before a slot has been free for as long as it takes.
        alone = min(busy) + (self._engine_time(min(images, self.max_batch)) if images else 0.0)
        return max(alone, (sum(busy) + work) / self._slots)

    def _doubt_if_idle(self, now: float) -> None:
        """A request was turned away for time; if no other was in its way, the estimate alone has done it."""
        if not self._queue.images and max(self._busy_until.values()) <= now:
            self._engine_time.doubt()

    def _forget(self, job: Job, answer: "asyncio.Future[Answer]") -> None:
        """Nobody waits any more: answered, failed or cancelled."""
        if answer.cancelled():
            # A caller that gives up at its deadline cancels, too.
            now = self._clock()
            self.counts.expired += now >= job.deadline
            self.counts.cancelled += now < job.deadline
            self.counts.unanswered_s += now - job.arrived
        with self._condition:
            self._queue.discard(job)
        self._accepted.discard(job)
        if not self._accepted:
            self._idle.set()

    async def _stop(self, timeout_s: float | None = None) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._ended:
            await asyncio.wait(self._ended, timeout=timeout_s)

    # On the engine threads.

    def _work(self, slot: int, ready: asyncio.Future[Engine], ended: asyncio.Future[None]) -> None:
        try:
            with self._open_engine() as engine:
                self._warm_up(engine)
                self._call_loop(_resolve, ready, engine)
                buffer = np.empty((self.max_batch, *IMAGE_SHAPE), np.uint8)
                while taken := self._next_batch():
                    self._run(slot, engine, buffer, *taken)
        except BaseException as error:  # the thread's outer edge: nobody may be left waiting for it
            self._call_loop(self._engine_died, ready, error)
        finally:
            self._call_loop(_resolve, ended, None)

    def _warm_up(self, engine: Engine) -> None:
        """The first calls of a session allocate and compile; no caller should pay for that. The second are timed."""
        for images in sorted({1, self.max_batch}):
            pixels = np.zeros((images, *IMAGE_SHAPE), np.uint8)
            _check(engine.run(pixels), images)
            started = self._clock()
            engine.run(pixels)
            self._call_loop(self._engine_time.observe, images, self._clock() - started)

    def _next_batch(self) -> tuple[list[Slice], Closed] | None:
        """Wait until somebody waits, then take up to a batch; None when there is to be no more."""
        expired: list[Job] = []
        with self._condition:
            while not self._stopping:
                if (delay_s := self._seconds_to_fill()) > 0:
                    self._filling += 1
                    self._condition.wait(delay_s)
                    self._filling -= 1
                    continue
                batch = self._queue.take(self.max_batch, self._clock(), self._engine_time, expired.append)
                if expired:
                    self._call_loop(self._expire, expired)
                    expired = []
                if batch:
                    self._working += 1
                    self._wake()  # one arrival wakes one thread, but may bring more than one batch
                    return batch, self._closed(batch)
                self._condition.wait()
        return None

    def _wake(self) -> None:
        """Wake an engine if what waits is worth it; those at work look for themselves when they are done."""
        if self._filling and self._queue.images < self.max_batch and self._arriving() and not self._max_queue_delay_s:
            return  # it waits for just these, and no longer than any deadline is away
        if not self._working or not self._shares_cores or self._is_worth_another():
            self._condition.notify()

    def _is_worth_another(self) -> bool:
        """Whether the engines are what requests wait for, rather than those who read and answer them."""
        return self._engine_time(self._queue.images) >= min(_BACKLOG_S, len(self._queue) * _REQUEST_S)

    def _seconds_to_fill(self) -> float:
        """How long what waits may still wait for more images."""
        if self._refusal or not 0 < self._queue.images < self.max_batch:
            return 0.0
        delay_s = self._max_queue_delay_s
        if self._shares_cores and self._arriving():
            delay_s = max(delay_s, _ARRIVAL_S)
        return self._queue.open_until(delay_s, self._engine_time(self.max_batch)) - self._clock() if delay_s else 0.0

    def _closed(self, batch: list[Slice]) -> Closed:
        if sum(stop - start for _, start, stop in batch) == self.max_batch:
            return "full"
        return "delay" if self._max_queue_delay_s and not self._refusal else "empty"

    def _run(self, slot: int, engine: Engine, buffer: Pixels, batch: list[Slice], closed: Closed) -> None:
        started = self._clock()
        self._busy_until[slot] = started + self._engine_time(sum(stop - start for _, start, stop in batch))
        try:
            pixels = _gather(batch, buffer)
            gathered = self._clock()
            probabilities = engine.run(pixels)
            _check(probabilities, len(pixels))
        except Exception as error:
            log.exception("engine call failed")
            self._call_loop(self._fail_batch, batch, EngineFault(f"{type(error).__name__}: {error}"))
            if isinstance(error, EngineLost):
                raise
            return
        finally:
            self._busy_until[slot] = -math.inf  # before anybody hears of the answers
            with self._condition:
                self._working -= 1
        self._call_loop(self._deliver, batch, closed, probabilities, started, gathered, self._clock())

    def _call_loop(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop was closed without `drain` or `abort`: there is nobody left to tell.
            log.warning("an engine thread outlived its event loop")

    # On the event loop, called by the engine threads.

    def _deliver(
        self,
        batch: list[Slice],
        closed: Closed,
        probabilities: Probabilities,
        started: float,
        gathered: float,
        finished: float,
    ) -> None:
        self.counts.executions += 1
        self.counts.images += len(probabilities)
        self._engine_time.observe(len(probabilities), finished - started)
        self._observer.executed(len(probabilities), finished - started, closed)
        row = 0
        for job, start, stop in batch:
            job.probabilities[start:stop] = probabilities[row : row + stop - start]
            row += stop - start
            job.answered += stop - start
            job.largest_batch = max(job.largest_batch, len(probabilities))
            job.started = min(job.started, started) if job.started else started
            if job.answered == len(job.pixels):
                self._answer(job, gathered - started, finished)

    def _answer(self, job: Job, input_s: float, finished: float) -> None:
        # A network that overflows on one image must not fail the images beside it.
        if not np.isfinite(job.probabilities).all():
            self._settle([job], EngineFault("the engine gave probabilities that are not finite"))
            return
        future = cast("asyncio.Future[Answer]", job.waiter)
        if not future.done():
            answer = Answer(
                probabilities=job.probabilities,
                queue_s=job.started - job.arrived,
                compute_s=finished - job.started,
                batch_size=job.largest_batch,
            )
            self.counts.answered += 1
            self.counts.queue_s += answer.queue_s
            self.counts.input_s += input_s
            self.counts.infer_s += answer.compute_s - input_s
            self.counts.output_s += self._clock() - finished
            self._observer.answered(answer)
            future.set_result(answer)

    def _expire(self, jobs: list[Job]) -> None:
        waiting = [job for job in jobs if not job.waiter.done()]
        self.counts.expired += len(waiting)
        self._doubt_if_idle(self._clock())
        self._settle(waiting, DeadlineExceeded("the deadline passed, or came too near, while the request waited"))

    def _fail_batch(self, batch: list[Slice], error: EngineFault) -> None:
        self.counts.executions += 1
        self._observer.failed()
        self._settle([job for job, _, _ in batch], error)

    def _engine_died(self, ready: asyncio.Future[Engine], error: BaseException) -> None:
        if not ready.done():
            # It never opened: `start` raises the reason.
            ready.set_exception(error)
            return
        log.critical("an engine thread died; no more requests are served", exc_info=error)
        self._fail(functools.partial(Unavailable, "the engine has died; this server must be restarted"))
        if not self._failed:
            self._failed = True
            self._on_failure()

    def _fail(self, refusal: Callable[[], Unavailable]) -> None:
        self._refusal = refusal
        with self._condition:
            self._queue.clear()
        self._settle(list(self._accepted), refusal())

    def _settle(self, jobs: Iterable[Job], error: ServeError) -> None:
        for job in jobs:
            future = cast("asyncio.Future[Answer]", job.waiter)
            if not future.done():
                self.counts.failed += isinstance(error, EngineFault | Unavailable)
                self.counts.unanswered_s += self._clock() - job.arrived
                future.set_exception(error)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _gather(batch: list[Slice], buffer: Pixels) -> Pixels:
    """Copy the slices' images side by side into `buffer`; a batch of one slice needs no copy."""
    if len(batch) == 1:
        job, start, stop = batch[0]
        return job.pixels[start:stop]
    row = 0
    for job, start, stop in batch:
        buffer[row : row + stop - start] = job.pixels[start:stop]
        row += stop - start
    return buffer[:row]


def _check(probabilities: Probabilities, images: int) -> None:
    """An engine that answers the wrong number of rows would give callers each other's answers."""
    if probabilities.shape != (images, CLASSES):
        raise ValueError(f"the engine gave {probabilities.shape}, expected {(images, CLASSES)}")
