"""Which requests get a line, and what they are called."""

import logging
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from tests.fakes import FakeEngine, images
from tests.serve.conftest import Running, Serving

GOOD = digits_pb2.ClassifyRequest(pixels=images(1).tobytes())


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == "serve.rpc.access_log"]


async def classify(server: Running, count: int = 1, **options: Any) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        for _ in range(count):
            await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(GOOD, **options)


async def test_by_default_no_request_gets_a_line(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeEngine()) as server:
        await classify(server, 20)
    assert lines(caplog) == []


async def test_a_share_of_the_requests_gets_one(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeEngine(), access_log=0.5) as server:
        await classify(server, 100)
    assert 20 < len(lines(caplog)) < 80  # one run in 10^9 is outside


@pytest.mark.parametrize("given", ["abc", "a" * 128, "4bf92f35-77b3:1/x+y=z@_."])
async def test_a_request_is_called_what_its_caller_calls_it(
    serving: Serving, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    async with serving(FakeEngine(), access_log=1.0) as server:
        await classify(server, metadata=[("x-request-id", given)])
    assert [line.request_id for line in lines(caplog)] == [given]


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, 'a"b', "a%0ab"])
async def test_a_name_that_is_long_or_strange_is_replaced(
    serving: Serving, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    async with serving(FakeEngine(), access_log=1.0) as server:
        await classify(server, metadata=[("x-request-id", given)])
    [line] = lines(caplog)
    assert len(line.request_id) == 32
    assert line.request_id.isalnum()


async def test_a_request_that_ends_with_internal_gets_a_line_and_one_name_everywhere(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> NoReturn:
        raise RuntimeError("out of memory")

    engine = FakeEngine()
    engine.misbehave = [fail]
    async with serving(engine) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await classify(server, metadata=[("x-request-id", "mine")])
    assert str(failed.value.details()).endswith("under request id mine")
    [line] = lines(caplog)
    assert (line.code, line.reason, line.request_id) == ("INTERNAL", "engine_fault", "mine")
    [reason] = [record for record in caplog.records if record.name == "serve.rpc.status"]
    assert reason.request_id == "mine"
    assert "out of memory" in str(reason.exc_info[1])
