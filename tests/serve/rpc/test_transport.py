"""Connections end when they should, and not before; a client whose connection ends does not notice."""

import asyncio
import collections
import time

import grpc
import psutil
import pytest

from benchmarks import http2
from clients import AsyncDigitClient
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.rpc import transport
from tests.fakes import FakeEngine, images
from tests.serve.conftest import Serving


def goaway(address: str, said: bytes, timeout_s: float) -> bytes | None:
    """Why the server wants to end a connection on which this was said; None if it does not."""
    with http2.connect(address) as connection:
        connection.sendall(said)
        for kind, _, _, payload in http2.frames(connection, timeout_s):
            if kind == http2.GOAWAY:
                return payload[8:]
    return None


async def test_calls_do_not_notice_that_their_connection_has_reached_its_age(serving: Serving) -> None:
    async with serving(FakeEngine(), max_connection_age_s=1.0) as server, AsyncDigitClient(server.address) as client:
        port = int(server.address.split(":")[1])
        ports = set()
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            await asyncio.gather(*(client.classify(images(1)) for _ in range(8)))
            ports |= {
                each.raddr.port
                for each in psutil.Process().net_connections("tcp")
                if each.raddr and each.laddr.port == port
            }
    assert len(ports) >= 2, "the connection was never closed"


@pytest.mark.parametrize("most", [8, None])
async def test_of_calls_that_nobody_looks_at_only_so_many_are_kept(serving: Serving, most: int | None) -> None:
    """The event loop is held up while they come."""
    async with serving(FakeEngine(), max_pending_calls=most) as server:
        request = digits_pb2.ClassifyRequest(pixels=images(1).tobytes())
        with grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel:
            classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
            await asyncio.to_thread(classify, request, timeout=10)
            calls = [classify.future(request, timeout=10) for _ in range(100)]
            time.sleep(0.3)  # noqa: ASYNC251
            codes = collections.Counter([await asyncio.to_thread(call.code) for call in calls])
        if most is None:
            assert codes == {grpc.StatusCode.OK: 100}
        else:
            # The call that was asked for before does not count.
            assert most <= codes[grpc.StatusCode.OK] <= most + 2
            assert codes[grpc.StatusCode.CANCELLED] == 100 - codes[grpc.StatusCode.OK]


async def test_an_idle_connection_is_closed(serving: Serving) -> None:
    async with serving(FakeEngine(), max_connection_idle_s=1.0) as server:
        assert await asyncio.to_thread(goaway, server.address, http2.preface(), 5) == b"connection idle"


@pytest.mark.parametrize(("least_ms", "reason"), [(50, None), (60_000, b"too_many_pings")])
async def test_clients_may_ask_whether_we_are_there_as_often_as_we_say(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, least_ms: int, reason: bytes | None
) -> None:
    monkeypatch.setattr(transport, "_LEAST_PING_INTERVAL_MS", least_ms)

    def ping(address: str) -> bytes | None:
        with http2.connect(address) as connection:
            connection.sendall(http2.preface())
            for _ in range(6):
                connection.sendall(http2.frame(http2.PING, 0, 0, bytes(8)))
                for kind, _, _, payload in http2.frames(connection, 0.1):
                    if kind == http2.GOAWAY:
                        return payload[8:]
        return None

    async with serving(FakeEngine()) as server:
        assert await asyncio.to_thread(ping, server.address) == reason


@pytest.mark.parametrize("said", [b"", http2.MAGIC, b"\x16\x03\x01"])
async def test_who_connects_and_does_not_go_on_is_sent_away(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(transport, "_HANDSHAKE_MS", 200)

    def wait(address: str) -> bool:
        with http2.connect(address) as connection:
            connection.sendall(said)
            return http2.is_closed(connection, 5)

    async with serving(FakeEngine()) as server:
        assert await asyncio.to_thread(wait, server.address)


async def test_one_connection_too_many_is_closed_at_once_and_the_others_go_on(serving: Serving) -> None:
    async with serving(FakeEngine(), max_connections=2) as server, AsyncDigitClient(server.address) as client:
        await client.classify(images(1))
        with http2.connect(server.address) as second, http2.connect(server.address) as third:
            assert await asyncio.to_thread(http2.is_closed, third, 5)
            assert not await asyncio.to_thread(http2.is_closed, second, 0.1)
            await client.classify(images(1))


def test_there_are_files_left_when_every_connection_is_taken() -> None:
    assert 0 < transport._most_connections() < transport.resource.getrlimit(transport.resource.RLIMIT_NOFILE)[0]
