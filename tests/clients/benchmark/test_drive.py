"""What becomes of requests when there is nobody to send them to, or somebody who takes his time."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from clients.benchmark.drive import Driver, Load
from clients.benchmark.recording import Recorder
from clients.channel import open_aio_channel
from protos.digits.v1 import digits_pb2, digits_pb2_grpc


@pytest.mark.parametrize("streams", [0, 2])
@pytest.mark.parametrize("rate", [None, 1000])
async def test_requests_fail_at_once_and_do_not_pile_up_while_the_server_is_away(free_address, streams, rate):
    start = asyncio.get_running_loop().time()
    recorder = Recorder(start=start, window_s=0.2, images=1)
    load = Load(
        path="/digits.v1.DigitRecognizer/Classify", protocol="digits", request=b"", metadata=None,
        callers=0 if rate else 8, due=rate and (number / rate for number in range(1 << 20)), streams=streams,
        start=start, timeout_s=60,
    )  # fmt: skip
    async with open_aio_channel(free_address, None, retry=False) as channel:
        driver = Driver(channel, load, recorder)
        running = asyncio.create_task(driver.run())
        async with asyncio.timeout(5):
            window = await recorder.next()
        driver.stop()
        await running
    assert window.errors == {"UNAVAILABLE": window.due}
    assert "Connection refused" in window.reasons["UNAVAILABLE"]
    # Callers rest after a failure: eight of them come eight hundred times a second at most.
    assert abs(window.due - 200) <= 1 if rate else 8 <= window.due <= 168


class Leisurely(digits_pb2_grpc.DigitRecognizerServicer):
    """Takes so many seconds for each of the first messages, and none for the others."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.streams = 0

    async def ClassifyStream(self, requests, context) -> AsyncIterator[digits_pb2.ClassifyStreamResponse]:
        self.streams += 1
        async for _ in requests:
            await asyncio.sleep(self.seconds.pop(0) if self.seconds else 0.002)
            yield digits_pb2.ClassifyStreamResponse(response=digits_pb2.ClassifyResponse(model="leisurely"))


@pytest.mark.parametrize(("seconds", "streams"), [((0.3,), 1), ((60.0,), 2)], ids=["late", "stalled"])
async def test_an_overdue_message_is_one_error_and_only_a_stream_that_has_stalled_is_opened_anew(seconds, streams):
    server, leisurely = grpc.aio.server(), Leisurely(*seconds)
    digits_pb2_grpc.add_DigitRecognizerServicer_to_server(leisurely, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    start = asyncio.get_running_loop().time()
    recorder = Recorder(start=start, window_s=0.8, images=1)
    load = Load(
        path="/digits.v1.DigitRecognizer/ClassifyStream", protocol="digits", request=b"", metadata=None, callers=1,
        due=None, streams=1, start=start, timeout_s=0.2,
    )  # fmt: skip
    async with open_aio_channel(address, None, retry=False) as channel:
        driver = Driver(channel, load, recorder)
        running = asyncio.create_task(driver.run())
        async with asyncio.timeout(10):
            window = await recorder.next()
            driver.stop()
            await running
    await server.stop(grace=None)
    assert leisurely.streams == streams
    assert window.errors == {"DEADLINE_EXCEEDED": streams}  # a caller's next message waits behind the stalled one
    assert window.latency.count == window.due - streams > 0
