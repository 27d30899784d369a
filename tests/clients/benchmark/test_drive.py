"""What becomes of requests when there is nobody to send them to."""

import asyncio

import pytest

from clients.benchmark.drive import Driver, Load
from clients.benchmark.recording import Recorder
from clients.channel import open_aio_channel


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
