"""`ClassifyStream`, over a real socket: order, refusals in place, flow control both ways, half-close and cancel."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import numpy as np
import pytest

from clients import AsyncDigitClient, Classification, DigitClient, DigitError, InvalidImages
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.rpc.calls import STREAM_MESSAGES
from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import Serving, batcher_of

Call = grpc.aio.StreamStreamCall


def request(count: int, seed: int = 0) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(pixels=images(count, seed).tobytes())


def open_stream(channel: grpc.aio.Channel) -> Call:
    return digits_pb2_grpc.DigitRecognizerStub(channel).ClassifyStream(timeout=30)


async def read(call: Call) -> digits_pb2.ClassifyStreamResponse:
    response = await asyncio.wait_for(call.read(), 20)
    assert response is not grpc.aio.EOF
    return response


async def test_each_request_gets_its_own_answer_in_order_whatever_its_size(serving: Serving) -> None:
    sizes = [1, 9, 2, 1, 17, 3] * 10
    async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)

        async def send() -> None:
            for seed, size in enumerate(sizes):
                await call.write(request(size, seed))
            await call.done_writing()

        sender = asyncio.create_task(send())
        for seed, size in enumerate(sizes):
            response = (await read(call)).response
            expected = answer_for(images(size, seed))
            found = np.array([each.probabilities for each in response.predictions], np.float32)
            np.testing.assert_array_equal(found, expected)
        assert await call.read() is grpc.aio.EOF
        await sender
        assert await call.code() is grpc.StatusCode.OK


async def test_a_bad_request_is_answered_in_its_place_and_the_stream_goes_on(serving: Serving) -> None:
    async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        unknown = request(1)
        unknown.model = "other"
        for message in (request(1), digits_pb2.ClassifyRequest(pixels=b"few"), unknown, request(2)):
            await call.write(message)
        await call.done_writing()
        first, second, third, last = [await read(call) for _ in range(4)]
    assert [each.WhichOneof("result") for each in (first, second, third, last)] == [
        "response",
        "refusal",
        "refusal",
        "response",
    ]
    assert second.refusal.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "a multiple of 784 was expected" in second.refusal.message
    assert third.refusal.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert len(last.response.predictions) == 2


async def test_bytes_that_are_no_request_are_refused_in_their_place(serving: Serving) -> None:
    async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        method = channel.stream_stream("/digits.v1.DigitRecognizer/ClassifyStream")
        call = method(timeout=30)
        await call.write(b"\xff\xff\xff")
        await call.write(request(1).SerializeToString())
        await call.done_writing()
        answers = [digits_pb2.ClassifyStreamResponse.FromString(await call.read()) for _ in range(2)]
    assert "are no digits.v1.ClassifyRequest" in answers[0].refusal.message
    assert len(answers[1].response.predictions) == 1


async def test_a_full_queue_is_told_with_the_time_to_come_back(serving: Serving) -> None:
    engine = FakeEngine()
    engine.hold()
    options = {"queue_images": 4, "max_images_per_request": 4}
    async with serving(engine, **options) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        await call.write(request(4))
        await asyncio.to_thread(engine.wait_until_inside)
        await call.write(request(4, 1))
        await call.write(request(4, 2))
        await call.done_writing()
        await asyncio.sleep(0.2)
        engine.release()
        answers = [await read(call) for _ in range(3)]
    assert [each.WhichOneof("result") for each in answers] == ["response", "response", "refusal"]
    assert answers[2].refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert answers[2].refusal.retry_after_ms >= 1


async def test_an_engine_fault_reaches_the_requests_of_its_batch_and_the_stream_goes_on(serving: Serving) -> None:
    def fail(_: object) -> np.ndarray:
        raise RuntimeError("secret")

    engine = FakeEngine()
    engine.misbehave = [fail]
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        await call.write(request(1))
        broken = await read(call)
        await call.write(request(1))
        whole = await read(call)
        await call.done_writing()
    assert broken.refusal.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in broken.refusal.message
    assert len(whole.response.predictions) == 1


async def test_a_caller_that_does_not_read_is_not_read_from(serving: Serving) -> None:
    """Its answers fill what the connection buffers, and then nothing more of it is taken in."""
    engine = FakeEngine()
    async with serving(engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        large = digits_pb2.ClassifyRequest(pixels=images(1024).tobytes(), top_k=10)

        async def send_500() -> None:
            for _ in range(500):
                await asyncio.wait_for(call.write(large), 2)

        with pytest.raises(TimeoutError):
            await send_500()
        taken = sum(map(len, engine.batches)) // 1024
        assert taken < 100
        await asyncio.sleep(0.5)
        assert sum(map(len, engine.batches)) // 1024 <= taken + 1, "the server went on reading"
        # Others are served as ever.
        async with AsyncDigitClient(server.address) as other:
            assert len((await other.classify(images(1))).digits) == 1
        call.cancel()


async def test_no_more_than_a_few_requests_of_a_stream_are_under_way(serving: Serving) -> None:
    engine = FakeEngine()
    engine.hold()
    async with serving(engine, max_batch=1000) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        for seed in range(3 * STREAM_MESSAGES):
            await call.write(request(1, seed))
        await call.done_writing()
        await asyncio.to_thread(engine.wait_until_inside)
        await asyncio.sleep(0.3)
        assert batcher_of(server.server).counts.accepted == STREAM_MESSAGES
        engine.release()
        for _ in range(3 * STREAM_MESSAGES):
            await read(call)


async def test_a_stream_that_is_cancelled_takes_its_requests_along(serving: Serving) -> None:
    engine = FakeEngine()
    engine.hold()
    async with serving(engine, max_batch=1) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        for seed in range(8):
            await call.write(request(1, seed))
        await asyncio.to_thread(engine.wait_until_inside)
        call.cancel()
        counts = batcher_of(server.server).counts
        async with asyncio.timeout(20):
            while counts.cancelled < counts.accepted:  # noqa: ASYNC110, nothing tells that the last of them is gone
                await asyncio.sleep(0.01)
        assert counts.cancelled == counts.accepted > 1
        engine.release()
        await asyncio.sleep(0.2)
        assert len(engine.batches) == 1, "cancelled requests reached the engine"


async def test_a_stream_without_requests_ends_well(serving: Serving) -> None:
    async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


# The clients


async def test_a_stream_lasts_as_long_as_messages_come(serving: Serving) -> None:
    limits = {"max_stream_idle_s": 1.0, "max_deadline_s": 1.0}
    async with serving(FakeEngine(), **limits) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = open_stream(channel)
        for seed in range(10):
            await call.write(request(1, seed))
            await read(call)
            await asyncio.sleep(0.25)  # together they are longer than the limits
        assert await asyncio.wait_for(call.code(), 20) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await call.details()).startswith("no whole message arrived for 1 s")


async def test_streams_cannot_take_every_call(serving: Serving) -> None:
    async with serving(FakeEngine(), max_calls=8) as server, AsyncExitStack() as channels:
        streams = []
        for _ in range(4):  # of one connection there are fewer
            channel = grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
            streams.append(open_stream(await channels.enter_async_context(channel)))
            await streams[-1].write(request(1))
            await read(streams[-1])
        stub = digits_pb2_grpc.DigitRecognizerStub(channel)
        refused = open_stream(channel)
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await refused.details()).startswith("4 streams are open, the most that may be")
        assert len((await stub.Classify(request(1), timeout=30)).predictions) == 1
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        admitted = open_stream(channel)
        await admitted.write(request(1))
        await read(admitted)


async def test_the_asynchronous_client_streams(serving: Serving) -> None:
    async def batches() -> AsyncIterator[np.ndarray]:
        for seed in range(40):
            yield images(1 + seed % 3, seed)

    async with serving(FakeEngine()) as server, AsyncDigitClient(server.address) as client:
        answers = [answer async for answer in client.stream(batches(), top_k=1)]
    for seed, answer in enumerate(answers):
        assert isinstance(answer, Classification)
        np.testing.assert_array_equal(answer.digits, answer_for(images(1 + seed % 3, seed)).argmax(axis=1))
    assert len(answers) == 40


async def test_the_client_gives_refusals_in_their_place_and_raises_for_batches_that_are_no_images(
    serving: Serving,
) -> None:
    def batches() -> Iterator[np.ndarray]:
        yield images(1)
        yield images(9)
        yield images(2)

    def spoilt() -> Iterator[np.ndarray]:
        yield images(1)
        yield np.zeros((3, 3), np.uint8)

    def work(address: str) -> list[Classification | DigitError]:
        with DigitClient(address) as client:
            answers = list(client.stream(batches()))
            with pytest.raises(InvalidImages, match=r"images have shape \(3, 3\)"):
                list(client.stream(spoilt()))
        return answers

    async with serving(FakeEngine(), max_images_per_request=8) as server:
        first, second, third = await asyncio.to_thread(work, server.address)
    assert isinstance(first, Classification)
    assert isinstance(second, InvalidImages)
    assert "holds 9 images; at most 8 are accepted" in str(second)
    assert isinstance(third, Classification)
    assert len(third.digits) == 2


async def test_a_server_that_is_away_is_an_error_of_the_stream() -> None:
    def work() -> None:
        with DigitClient("127.0.0.1:9") as client:
            list(client.stream(iter([images(1)]), timeout_s=2))

    with pytest.raises(DigitError):
        await asyncio.to_thread(work)
