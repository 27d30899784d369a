"""`max_queue_delay_us`: a free engine that waits for a batch to fill. The clock is the test's own."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serve.batcher import Answer, Batcher, BatchObserver, Closed
from tests.fakes import Clock, FakeEngine, Line, images

pytestmark = pytest.mark.timeout(30)

NEVER_OVER_S = 1e6


class Closings(BatchObserver):
    """The size of each batch, and why no more images were added."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Closed]] = []

    def executed(self, images: int, seconds: float, closed: Closed) -> None:
        self.seen.append((images, closed))


class Bench:
    """A batcher with one engine, and what it did."""

    def __init__(self, delay_s: float, arriving: int = 0) -> None:
        self.arriving = arriving
        self.clock, self.closings, self.engine = Clock(), Closings(), FakeEngine()
        self.batcher = Batcher(
            self.engine.open,
            slots=1,
            max_batch=4,
            queue_images=100,
            max_queue_delay_s=delay_s,
            shares_cores=bool(arriving),
            arriving=lambda: self.arriving,
            observer=self.closings,
            engine_time=Line(),
            clock=self.clock,
        )

    async def submit(self, count: int, deadline: float = math.inf) -> asyncio.Task[Answer]:
        """The engine has seen the request, and what time it was, when this returns."""
        self.clock.forget()
        task = asyncio.create_task(self.batcher.submit(images(count), deadline=deadline))
        await asyncio.sleep(0)
        await asyncio.to_thread(self.clock.wait_until_read)
        return task


@asynccontextmanager
async def running(delay_s: float, arriving: int = 0) -> AsyncIterator[Bench]:
    bench = Bench(delay_s, arriving)
    await bench.batcher.start()
    try:
        yield bench
    finally:
        await bench.batcher.abort()


async def test_without_a_delay_nothing_waits() -> None:
    async with running(0.0) as bench:
        await (await bench.submit(1))
        await (await bench.submit(9))
    assert bench.closings.seen == [(1, "empty"), (4, "full"), (4, "full"), (1, "empty")]


async def test_a_full_batch_does_not_wait() -> None:
    async with running(NEVER_OVER_S) as bench:
        await asyncio.gather(*[await bench.submit(1) for _ in range(4)])
    assert bench.closings.seen == [(4, "full")]


async def test_the_delay_counts_from_the_oldest_requests_arrival() -> None:
    async with running(100.0) as bench:
        first = await bench.submit(1)
        bench.clock.now += 99.9
        second = await bench.submit(1)
        bench.clock.now += 0.1
        third = await bench.submit(1)
        answers = await asyncio.gather(first, second, third)
    assert bench.closings.seen == [(3, "delay")]
    assert [answer.queue_s for answer in answers] == pytest.approx([100.0, 0.1, 0.0], abs=1e-6)


async def test_what_a_full_batch_leaves_waits_for_its_own_delay() -> None:
    async with running(100.0) as bench:
        first = await bench.submit(3)
        bench.clock.now += 50
        second = await bench.submit(2)  # one of its images fills the batch, the other one waits
        await first
        bench.clock.now += 100
        third = await bench.submit(1)
        await asyncio.gather(second, third)
    assert bench.closings.seen == [(4, "full"), (2, "delay")]


async def test_who_could_not_be_answered_in_time_after_a_wait_is_not_made_to_wait() -> None:
    """One image takes 11 s. A full batch, which others might make of it, takes 14 s."""
    async with running(NEVER_OVER_S) as bench:
        await (await bench.submit(1, bench.clock.now + 13.9))
    assert bench.closings.seen == [(1, "delay")]


async def test_a_batch_waits_no_longer_than_the_nearest_deadline_allows_whosever_it_is() -> None:
    async with running(NEVER_OVER_S) as bench:
        start = bench.clock.now
        patient = await bench.submit(1)
        hasty = await bench.submit(1, start + 20)  # has to begin at 4: two seconds are for the way there and back
        bench.clock.now = start + 3.9
        late = await bench.submit(1)
        assert bench.closings.seen == []
        bench.clock.now = start + 4
        last = await bench.submit(1, start + 1000)
        await asyncio.gather(patient, hasty, late, last)
    assert bench.closings.seen == [(4, "full")]

    async with running(NEVER_OVER_S) as bench:
        start = bench.clock.now
        patient = await bench.submit(1)
        bench.clock.now = start + 6
        hasty = await bench.submit(1, start + 20)
        await asyncio.gather(patient, hasty)
    assert bench.closings.seen == [(2, "delay")]


async def test_a_caller_in_haste_is_seen_even_while_more_requests_are_on_their_way() -> None:
    async with running(NEVER_OVER_S, arriving=1) as bench:
        patient = await bench.submit(1)
        hasty = await bench.submit(1, bench.clock.now + 13.9)
        await asyncio.gather(patient, hasty)
    assert bench.closings.seen == [(2, "delay")]


async def test_a_caller_that_leaves_takes_its_delay_along() -> None:
    async with running(100.0) as bench:
        first = await bench.submit(1)
        bench.clock.now += 60
        second = await bench.submit(1)
        first.cancel()
        await asyncio.wait([first])
        bench.clock.now += 60
        third = await bench.submit(1)  # 120 after the first, 60 after the second
        bench.clock.now += 40
        await asyncio.gather(second, third, await bench.submit(1))
    assert bench.closings.seen == [(3, "delay")]


async def test_a_drain_waits_for_no_more_images() -> None:
    async with running(NEVER_OVER_S) as bench:
        waiting = await bench.submit(1)
        await bench.batcher.drain()
        assert len(waiting.result().probabilities) == 1
    assert bench.closings.seen == [(1, "empty")]


async def test_in_real_time_a_lone_image_is_answered_when_the_delay_is_over() -> None:
    engine, closings = FakeEngine(), Closings()
    batcher = Batcher(engine.open, slots=2, max_batch=4, queue_images=100, max_queue_delay_s=0.05, observer=closings)
    await batcher.start()
    answer = await batcher.submit(images(1))
    await batcher.drain()
    assert 0.05 <= answer.queue_s < 1
    assert closings.seen == [(1, "delay")]


async def test_in_real_time_a_lone_image_with_a_deadline_before_that_is_answered_in_time() -> None:
    engine = FakeEngine()
    batcher = Batcher(engine.open, slots=1, max_batch=4, queue_images=100, max_queue_delay_s=60)
    await batcher.start()
    deadline = time.monotonic() + 4  # of which 0.4 are left for all but the engine
    await batcher.submit(images(1), deadline=deadline)
    assert time.monotonic() < deadline
    await batcher.drain()


async def test_requests_on_their_way_are_waited_for_until_the_last_is_there() -> None:
    async with running(0.0, arriving=2) as bench:
        first = await bench.submit(1)
        bench.arriving = 1
        task = asyncio.create_task(bench.batcher.submit(images(1)))
        await asyncio.sleep(0.05)
        assert not bench.engine.batches
        bench.arriving = 0
        last = asyncio.create_task(bench.batcher.submit(images(1)))
        await asyncio.gather(first, task, last)
        assert [len(batch) for batch in bench.engine.batches] == [3]


async def test_a_request_that_never_comes_is_not_waited_for_longer_than_a_millisecond() -> None:
    async with running(0.0, arriving=1) as bench:
        first = await bench.submit(1)
        assert not bench.engine.batches
        bench.clock.now += 0.0011
        await first


async def test_a_full_batch_waits_for_nobody() -> None:
    async with running(0.0, arriving=9) as bench:
        await bench.batcher.submit(images(4))
