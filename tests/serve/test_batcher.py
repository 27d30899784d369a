"""The batcher's promises. Every test ends by time-out if somebody is left waiting."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.batcher import Answer, Batcher
from serve.engines import Pixels, Probabilities
from serve.errors import DeadlineExceeded, EngineFault, EngineLost, QueueFull, Unavailable
from serve.estimate import EngineTime
from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import Serving

pytestmark = pytest.mark.timeout(30)


@asynccontextmanager
async def running(engine: FakeEngine, **options: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine.open, **{"slots": 1, "max_batch": 4, "queue_images": 100} | options)
    await batcher.start()
    try:
        yield batcher
    finally:
        engine.release()
        await batcher.abort()


async def submit(batcher: Batcher, pixels: Pixels, **options: Any) -> asyncio.Task[Answer]:
    """A caller whose request has been queued when this returns."""
    task = asyncio.create_task(batcher.submit(pixels, **options))
    await asyncio.sleep(0)
    return task


async def hold_engine(engine: FakeEngine, batcher: Batcher) -> asyncio.Task[Answer]:
    """Keep the engine busy with a first caller, so that whoever comes next has to wait."""
    engine.hold()
    first = await submit(batcher, images(1, seed=999))
    await asyncio.to_thread(engine.wait_until_inside)
    return first


async def other_engine_waits(batcher: Batcher) -> None:
    """Return when a free engine's thread has looked for requests and sleeps, of which there is no public sign."""
    while not batcher._condition._waiters:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def assert_answers(answer: Answer, pixels: Pixels) -> None:
    np.testing.assert_array_equal(answer.probabilities, answer_for(pixels))


def raising(error: BaseException) -> Callable[[Pixels], Probabilities]:
    def run(_: Pixels) -> NoReturn:
        raise error

    return run


@pytest.mark.parametrize("slots", [1, 3])
async def test_each_caller_gets_the_answer_for_its_own_image(slots: int) -> None:
    """Property 1: under random sizes and arrival order."""
    random = np.random.default_rng(slots)

    async def call(batcher: Batcher, seed: int) -> None:
        pixels = images(int(random.integers(1, 10)), seed=seed)
        await asyncio.sleep(random.exponential(0.005))
        assert_answers(await batcher.submit(pixels), pixels)

    async with running(FakeEngine(), slots=slots, queue_images=5000) as batcher:
        await asyncio.gather(*(call(batcher, seed) for seed in range(500)))
    assert batcher.counts.answered == 500


@pytest.mark.parametrize("moment", ["before", "during", "after"])
async def test_a_cancelled_caller_leaves_its_batch_mates_answers_unchanged(moment: str) -> None:
    """Property 2: cancelled before, during and after the engine call."""
    engine = FakeEngine()
    async with running(engine) as batcher:
        first = await hold_engine(engine, batcher)
        pixels = [images(1, seed=seed) for seed in range(3)]
        callers = [await submit(batcher, each) for each in pixels]
        if moment == "before":
            callers[1].cancel()
            await asyncio.wait([callers[1]])
        engine.release()
        engine.hold()
        await first
        await asyncio.to_thread(engine.wait_until_inside)
        if moment == "during":
            callers[1].cancel()
            await asyncio.wait([callers[1]])
        engine.release()
        if moment == "after":
            # The caller's future has its answer, but the caller has not run since.
            while batcher.counts.answered != 4:  # noqa: ASYNC110, the point is to act before the caller does
                await asyncio.sleep(0)
            callers[1].cancel()
        done = await asyncio.gather(*callers, return_exceptions=True)

    assert_answers(done[0], pixels[0])
    assert_answers(done[2], pixels[2])
    assert len(engine.batches[1]) == (2 if moment == "before" else 3)
    if moment != "after":
        assert isinstance(done[1], asyncio.CancelledError)
        assert batcher.counts.cancelled == 1


async def test_an_invalid_request_is_refused_before_it_can_join_a_batch(
    serving: Serving,
) -> None:
    """Property 3: seen from the wire, with a valid request waiting for the same batch."""
    engine = FakeEngine()
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
        engine.hold()
        first = classify(digits_pb2.ClassifyRequest(pixels=images(1).tobytes()))
        await asyncio.to_thread(engine.wait_until_inside)
        good = classify(digits_pb2.ClassifyRequest(pixels=images(1, seed=1).tobytes()))
        for bad in (
            digits_pb2.ClassifyRequest(),
            digits_pb2.ClassifyRequest(pixels=bytes(783)),
            digits_pb2.ClassifyRequest(pixels=bytes(784 * 2000)),
            digits_pb2.ClassifyRequest(pixels=bytes(784), top_k=11),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await classify(bad, timeout=5)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        engine.release()
        await first
        assert (await good).predictions
    assert [len(batch) for batch in engine.batches] == [1, 1]


async def test_when_the_engine_raises_exactly_that_batch_gets_the_error_and_the_next_succeeds() -> None:
    """Property 4."""
    engine = FakeEngine()
    async with running(engine) as batcher:
        first = await hold_engine(engine, batcher)
        engine.misbehave = [answer_for, raising(RuntimeError("out of memory"))]
        pixels = [images(1, seed=seed) for seed in range(6)]
        callers = [await submit(batcher, each) for each in pixels]
        engine.release()
        await first
        done = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(each) for each in done[:4]] == [EngineFault] * 4
    assert "out of memory" in str(done[0])
    for answer, each in zip(done[4:], pixels[4:], strict=True):
        assert_answers(answer, each)


@pytest.mark.parametrize("shift", [-1, 1])
async def test_a_wrong_number_of_rows_fails_that_batch_loudly_and_shifts_no_answer(shift: int) -> None:
    """Property 5."""
    engine = FakeEngine()
    async with running(engine) as batcher:
        first = await hold_engine(engine, batcher)
        engine.misbehave = [answer_for, lambda pixels: np.zeros((len(pixels) + shift, 10), np.float32)]
        callers = [await submit(batcher, images(1, seed=seed)) for seed in range(3)]
        engine.release()
        await first
        done = await asyncio.gather(*callers, return_exceptions=True)
        pixels = images(2)
        assert_answers(await batcher.submit(pixels), pixels)

    assert [type(each) for each in done] == [EngineFault] * 3
    assert f"({3 + shift}, 10), expected (3, 10)" in str(done[0])


async def test_probabilities_that_are_not_finite_fail_their_own_caller_only() -> None:
    """An image that overflows the network must not spoil its batch-mates."""

    def overflow(pixels: Pixels) -> Probabilities:
        probabilities = answer_for(pixels)
        probabilities[1] = np.nan
        return probabilities

    engine = FakeEngine()
    async with running(engine) as batcher:
        first = await hold_engine(engine, batcher)
        engine.misbehave = [answer_for, overflow]
        pixels = [images(1, seed=seed) for seed in range(3)]
        callers = [await submit(batcher, each) for each in pixels]
        engine.release()
        await first
        done = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(done[1], EngineFault)
    assert_answers(done[0], pixels[0])
    assert_answers(done[2], pixels[2])


async def test_when_the_worker_dies_waiting_callers_get_an_error_and_nobody_hangs() -> None:
    """Property 6, in the batcher: those inside the engine, those in the queue, and those that come later."""
    engine, failures = FakeEngine(), []
    async with running(engine, on_failure=lambda: failures.append("died")) as batcher:
        inside = await hold_engine(engine, batcher)
        waiting = [await submit(batcher, images(1, seed=seed)) for seed in range(6)]
        engine.misbehave = [raising(SystemExit("killed"))]
        engine.release()
        done = await asyncio.gather(inside, *waiting, return_exceptions=True)
        with pytest.raises(Unavailable, match="has died"):
            await batcher.submit(images(1))

    assert [type(each) for each in done] == [Unavailable] * 7
    assert failures == ["died"]


async def test_an_engine_that_cannot_recover_takes_no_more_batches() -> None:
    """A GPU that has failed fails on every batch: better no server than one that says it is well and answers none."""
    engine, failures = FakeEngine(), []
    async with running(engine, on_failure=lambda: failures.append("died")) as batcher:
        engine.misbehave = [raising(EngineLost("the device fell off the bus"))]
        with pytest.raises((EngineFault, Unavailable)):
            await batcher.submit(images(1))
        with pytest.raises(Unavailable, match="must be restarted"):
            await batcher.submit(images(1))
    assert failures == ["died"]
    assert len(engine.batches) == 1


async def test_when_the_worker_dies_health_turns_to_not_serving(serving: Serving) -> None:
    """Property 6, from outside: a watcher is told and callers are sent elsewhere."""
    engine = FakeEngine()
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        engine.misbehave = [raising(SystemExit("killed"))]
        classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await classify(digits_pb2.ClassifyRequest(pixels=images(1).tobytes()), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_a_deadline_that_passed_in_the_queue_is_not_sent_to_the_engine_and_is_counted() -> None:
    """Property 7."""
    engine, now = FakeEngine(), [100.0]
    async with running(engine, clock=lambda: now[0]) as batcher:
        first = await hold_engine(engine, batcher)
        late = await submit(batcher, images(1, seed=1), deadline=105.0)
        pixels = images(1, seed=2)
        patient = await submit(batcher, pixels, deadline=200.0)
        now[0] = 110.0
        engine.release()
        await first
        with pytest.raises(DeadlineExceeded):
            await late
        assert_answers(await patient, pixels)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(images(1), deadline=109.0)

    assert [len(batch) for batch in engine.batches] == [1, 1]
    assert batcher.counts.expired == 2


async def test_a_full_queue_refuses_immediately_and_capacity_returns_after_draining() -> None:
    """Property 8: bounded in images, exactly, and a caller that leaves gives its room back."""
    engine = FakeEngine()
    async with running(engine, queue_images=5) as batcher:
        first = await hold_engine(engine, batcher)
        callers = [await submit(batcher, images(3)), await submit(batcher, images(2))]
        refused = await submit(batcher, images(1))
        assert refused.done(), "a refusal must not wait"
        with pytest.raises(QueueFull, match="5 of at most 5 images, no room for 1 more"):
            await refused

        callers[1].cancel()
        await asyncio.wait([callers[1]])
        callers[1] = await submit(batcher, images(2))
        assert not callers[1].done()

        engine.release()
        await asyncio.gather(first, *callers)
        pixels = images(5)
        assert_answers(await batcher.submit(pixels), pixels)
    assert batcher.counts.refused == 1


async def test_drain_answers_accepted_requests_refuses_new_ones_and_ends_the_thread() -> None:
    """Property 9."""
    engine = FakeEngine()
    async with running(engine) as batcher:
        first = await hold_engine(engine, batcher)
        pixels = [images(1, seed=seed) for seed in range(6)]
        callers = [await submit(batcher, each) for each in pixels]
        drain = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="draining"):
            await batcher.submit(images(1))
        assert not drain.done()

        engine.release()
        await drain
        for caller, each in zip(callers, pixels, strict=True):
            assert_answers(caller.result(), each)
        assert first.done()
        assert engine.thread is not None
        await asyncio.to_thread(engine.thread.join, 10)
        assert not engine.thread.is_alive()


async def test_never_more_than_the_maximum_batch() -> None:
    """Property 10, first half; and what waits while the engine is busy leaves in full batches."""
    engine = FakeEngine()
    async with running(engine, max_batch=4) as batcher:
        first = await hold_engine(engine, batcher)
        callers = [await submit(batcher, images(1, seed=seed)) for seed in range(10)]
        engine.release()
        answers = await asyncio.gather(first, *callers)
    assert [len(batch) for batch in engine.batches] == [1, 4, 4, 2]
    assert [answer.batch_size for answer in answers] == [1] + [4] * 8 + [2] * 2


async def test_an_idle_server_uses_no_cpu() -> None:
    """Property 10, second half: an engine thread with nothing to do is never scheduled, so it cannot be polling."""
    engine = FakeEngine()
    async with running(engine) as batcher:
        await batcher.submit(images(1))
        thread = engine.thread
        assert thread is not None

        def switches() -> list[str]:
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            return [line for line in status.splitlines() if "ctxt_switches" in line]

        await asyncio.sleep(0.1)
        before = switches()
        await asyncio.sleep(0.5)
        assert len(before) == 2
        assert switches() == before


@pytest.mark.parametrize("slots", [1, 2])
async def test_a_request_larger_than_the_maximum_batch_is_split_and_answered_whole(slots: int) -> None:
    """Property 11: split, not refused; its parts may share batches with other callers."""
    engine = FakeEngine()
    async with running(engine, slots=slots, max_batch=4) as batcher:
        sizes = [11, 1, 9, 4]
        pixels = [images(size, seed=size) for size in sizes]
        answers = await asyncio.gather(*(batcher.submit(each) for each in pixels))
    for answer, each in zip(answers, pixels, strict=True):
        assert_answers(answer, each)
    assert max(len(batch) for batch in engine.batches) == 4
    assert sum(len(batch) for batch in engine.batches) == sum(sizes)


async def test_a_failing_part_fails_its_whole_request_and_no_other() -> None:
    engine = FakeEngine()
    async with running(engine, max_batch=4) as batcher:
        engine.misbehave = [raising(RuntimeError("once"))]
        with pytest.raises(EngineFault, match="once"):
            await batcher.submit(images(10))
        pixels = images(3)
        assert_answers(await batcher.submit(pixels), pixels)


async def test_an_engine_that_cannot_be_opened_fails_the_start_and_leaves_no_thread() -> None:
    def refuse() -> NoReturn:
        raise RuntimeError("no such device")

    batcher = Batcher(refuse, slots=2, max_batch=4, queue_images=10)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="no such device"):
        await batcher.start()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


async def test_abort_fails_those_who_wait_and_does_not_wait_for_an_engine_that_hangs() -> None:
    engine = FakeEngine()
    async with running(engine) as batcher:
        first = await hold_engine(engine, batcher)
        second = await submit(batcher, images(1))
        await batcher.abort()
        for caller in (first, second):
            with pytest.raises(Unavailable, match="shutting down"):
                await caller


class Known(EngineTime):
    """An engine's speed that calls teach nothing."""

    def __init__(self, image_s: float) -> None:
        super().__init__()
        self._image_s = image_s

    def observe(self, images: int, seconds: float) -> None:
        pass

    def __call__(self, images: int) -> float:
        return images * self._image_s


@pytest.mark.parametrize(("image_s", "count"), [(3e-4, 1), (1e-4, 2), (3e-6, 70)])
async def test_another_engine_begins_where_a_requests_images_take_longer_than_the_request(
    image_s: float, count: int
) -> None:
    engine = FakeEngine()
    async with running(engine, slots=2, max_batch=100, shares_cores=True, engine_time=Known(image_s)) as batcher:
        first = await hold_engine(engine, batcher)
        second = await submit(batcher, images(count))
        await asyncio.to_thread(engine.wait_until_inside)
        engine.release()
        engine.release()
        await asyncio.gather(first, second)


async def test_small_requests_wait_for_the_engine_at_work_until_there_are_many() -> None:
    engine = FakeEngine()
    async with running(engine, slots=2, max_batch=100, shares_cores=True, engine_time=Known(1.5e-4)) as batcher:
        first = await hold_engine(engine, batcher)
        await other_engine_waits(batcher)
        few = [await submit(batcher, images(1, seed=seed)) for seed in range(50)]  # 7.5 ms
        await asyncio.sleep(0.05)
        assert len(engine.batches) == 1
        few += [await submit(batcher, images(1, seed=seed)) for seed in range(50, 54)]
        await asyncio.to_thread(engine.wait_until_inside)
        assert len(engine.batches[1]) == 54
        engine.release()
        engine.release()
        await asyncio.gather(first, *few)


async def test_what_is_not_worth_another_engine_is_taken_by_the_next_that_is_done() -> None:
    engine = FakeEngine()
    async with running(engine, slots=2, shares_cores=True, engine_time=Known(1e-5)) as batcher:
        first = await hold_engine(engine, batcher)
        await other_engine_waits(batcher)
        second = await submit(batcher, images(2, seed=1))
        engine.release()
        await asyncio.gather(first, second)
    assert [len(batch) for batch in engine.batches] == [1, 2]
