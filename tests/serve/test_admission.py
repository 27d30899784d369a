"""Deadlines: what cannot be answered in time is refused at once. Engine's speed and clock are the tests' own."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import numpy as np
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.batcher import Answer, Batcher
from serve.errors import DeadlineExceeded, DeadlineUnreachable
from serve.estimate import EngineTime
from tests.fakes import Clock, FakeEngine, Line, images
from tests.serve.conftest import Serving

pytestmark = pytest.mark.timeout(30)


@asynccontextmanager
async def running(
    engine: FakeEngine, clock: Clock, *, engine_time: EngineTime | None = None, **options: int
) -> AsyncIterator[Batcher]:
    sizes = {"slots": 1, "max_batch": 4, "queue_images": 100} | options
    batcher = Batcher(engine.open, engine_time=engine_time or Line(), clock=clock, **sizes)
    await batcher.start()
    try:
        yield batcher
    finally:
        engine.release()
        await batcher.abort()


async def submit(batcher: Batcher, count: int, deadline: float = math.inf) -> asyncio.Task[Answer]:
    task = asyncio.create_task(batcher.submit(images(count), deadline=deadline))
    await asyncio.sleep(0)
    return task


async def test_on_an_idle_server_only_the_call_itself_counts():
    clock = Clock()
    async with running(FakeEngine(), clock) as batcher:
        assert len((await batcher.submit(images(2), deadline=clock.now + 12.5)).probabilities) == 2
        with pytest.raises(DeadlineUnreachable, match=r"with 0 images waiting the answer would come 500\.0 ms after"):
            await batcher.submit(images(2), deadline=clock.now + 11.5)
    assert (batcher.counts.answered, batcher.counts.refused) == (1, 1)


async def test_a_pause_that_looked_like_a_slow_call_does_not_lock_out_callers_in_haste():
    learnt = EngineTime()
    for seconds in (*[0.001] * 300, 60.0):
        learnt.observe(1, seconds)
    assert learnt(1) > 0.3
    clock = Clock()
    async with running(FakeEngine(), clock, engine_time=learnt) as batcher:
        for _ in range(500):
            with contextlib.suppress(DeadlineUnreachable, DeadlineExceeded):
                await batcher.submit(images(1), deadline=clock.now + 0.02)
    assert batcher.counts.answered > 250


async def test_what_runs_and_what_waits_counts_as_well():
    engine, clock = FakeEngine(), Clock()
    engine.hold()
    async with running(engine, clock) as batcher:
        await submit(batcher, 4)  # runs: done at 14
        await asyncio.to_thread(engine.wait_until_inside)
        await submit(batcher, 4)  # waits: done at 28
        clock.now += 5
        # Its own call of one image takes 11: done at 39, 34 from now.
        with pytest.raises(DeadlineUnreachable) as refused:
            await batcher.submit(images(1), deadline=clock.now + 33.9)
        assert refused.value.retry_after_s == pytest.approx(23)
        accepted = await submit(batcher, 1, clock.now + 34.1)
        engine.release()
        await accepted


async def test_slots_share_what_waits():
    engine, clock = FakeEngine(), Clock()
    engine.hold()
    async with running(engine, clock, slots=2) as batcher:
        for _ in range(2):
            await submit(batcher, 4)
            await asyncio.to_thread(engine.wait_until_inside)
        await submit(batcher, 4)
        # 14 until the first slot is free, 14 for the four that wait, beside which one image takes 11.
        with pytest.raises(DeadlineUnreachable):
            await batcher.submit(images(1), deadline=clock.now + 24.9)
        assert not (await submit(batcher, 1, clock.now + 28.1)).done()


async def test_a_request_larger_than_a_batch_is_reckoned_whole():
    clock = Clock()
    async with running(FakeEngine(), clock) as batcher:
        # Two batches of four and one of two: 14 + 14 + 12.
        with pytest.raises(DeadlineUnreachable):
            await batcher.submit(images(10), deadline=clock.now + 39.9)


async def test_who_sets_no_deadline_is_never_refused_for_time():
    engine, clock = FakeEngine(), Clock()
    engine.hold()
    async with running(engine, clock) as batcher:
        tasks = [await submit(batcher, 4) for _ in range(25)]
        engine.release()
        await asyncio.gather(*tasks)


async def test_a_deadline_that_has_come_too_near_in_the_queue_is_not_sent_to_the_engine():
    engine, clock = FakeEngine(), Clock()
    engine.hold()
    async with running(engine, clock) as batcher:
        first = await submit(batcher, 1)
        await asyncio.to_thread(engine.wait_until_inside)
        late, patient = await submit(batcher, 1, clock.now + 30), await submit(batcher, 1, clock.now + 100)
        clock.now += 20  # longer than the engine was believed to take; 10 s are left, a call takes 11
        engine.release()
        with pytest.raises(DeadlineExceeded, match="came too near"):
            await late
        await asyncio.gather(first, patient)
    assert [len(batch) for batch in engine.batches] == [1, 1]
    assert batcher.counts.expired == 1


class SlowEngine(FakeEngine):
    """Takes a fifth of a second for each call."""

    def run(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return super().run(pixels)


async def test_a_caller_in_too_much_haste_is_told_at_once_when_to_come_back(serving: Serving) -> None:
    request = digits_pb2.ClassifyRequest(pixels=images(1).tobytes())
    async with serving(SlowEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = digits_pb2_grpc.DigitRecognizerStub(channel)
        await stub.Classify(request, timeout=5)
        others = [asyncio.ensure_future(stub.Classify(request, timeout=20)) for _ in range(10)]
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Classify(request, timeout=0.3)
        assert time.perf_counter() - started < 0.15, "not at once"
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "after the deadline; allow more time, or try again later" in (refused.value.details() or "")
        assert 100 <= int(dict(refused.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]) <= 2000
        await asyncio.gather(*others)
