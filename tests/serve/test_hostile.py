"""Callers that mean harm: what they send is refused, nothing of it is kept, and everybody else is served on."""

import asyncio
import gzip
import random
import re
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from benchmarks import http2
from benchmarks.h2load import frame as grpc_frame
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.process import ServerProcess, server_process
from tests.fakes import images


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A real server, which must drain and end with status 0 after the test."""
    with server_process(bundle, log=tmp_path / "log") as running:
        yield running


def call_path(address: str, path: bytes) -> None:
    """A gRPC call of a path that no client library would send; returns when the server has reacted."""
    with http2.connect(address) as connection:
        connection.sendall(http2.preface() + http2.call(1, b"", path))
        for _ in http2.frames(connection, 1):
            pass


def assert_serves(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        request = digits_pb2.ClassifyRequest(pixels=images(2).tobytes())
        assert len(digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request, timeout=10).predictions) == 2


@pytest.mark.parametrize("path", [b"/\xff", b"/digits.v1.DigitRecognizer/Classify\xff", b"", b"/\0", b"no slash"])
def test_a_path_that_is_no_text_does_not_end_the_server(server: ServerProcess, path: bytes) -> None:
    """It does in grpcio 1.84 and 1.85."""
    call_path(server.address, path)
    assert_serves(server)


@pytest.mark.parametrize("kind", ["too many images", "unknown model", "no whole image", "no message", "full queue"])
def test_what_is_refused_is_not_kept(bundle: Path, tmp_path: Path, kind: str) -> None:
    """Two hundred refusals of 3 MB each: 600 MB if their messages were kept until the garbage collector comes by."""
    messages = {
        "too many images": digits_pb2.ClassifyRequest(pixels=bytes(784 * 4000)).SerializeToString(),
        "unknown model": digits_pb2.ClassifyRequest(model="x" * 3_000_000).SerializeToString(),
        "no whole image": digits_pb2.ClassifyRequest(pixels=bytes(3_000_000)).SerializeToString(),
        "no message": b"\xff" * 3_000_000,
        "full queue": digits_pb2.ClassifyRequest(pixels=bytes(784 * 4000)).SerializeToString(),
    }
    limit = ("--max-images-per-request", "4000", "--queue-images", "4000") if kind == "full queue" else ()
    with (
        server_process(bundle, "--slots", "1", "--max-batch", "1", *limit, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        classify = channel.unary_unary("/digits.v1.DigitRecognizer/Classify")
        process = psutil.Process(server.pid)
        before, refused = process.memory_info().rss, 0
        while refused < 200:
            # Several at once, so that a queue that one of them fills has somebody to refuse.
            calls = [classify.future(messages[kind], timeout=30) for _ in range(5)]
            refused += sum(call.code() is not grpc.StatusCode.OK for call in calls)
        grown = process.memory_info().rss - before
        assert grown < 150e6, f"{grown / 1e6:.0f} MB more than before"


def test_one_connection_cannot_take_every_call(bundle: Path, tmp_path: Path) -> None:
    with (
        server_process(bundle, "--max-calls", "40", log=tmp_path / "log") as server,
        http2.connect(server.address) as connection,
    ):
        connection.sendall(http2.preface())
        for stream in range(1, 200, 2):
            connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.headers()))
        assert_serves(server)


def test_watchers_of_health_cannot_take_every_call(bundle: Path, tmp_path: Path) -> None:
    """They need no token, and last."""
    watch = http2.call(1, b"", "/grpc.health.v1.Health/Watch")
    with (
        server_process(bundle, "--max-calls", "8", log=tmp_path / "log") as server,
        ExitStack() as connections,
    ):
        for _ in range(20):
            connection = connections.enter_context(http2.connect(server.address))
            connection.sendall(http2.preface() + watch)
            # Either is told the status, or that too many watch.
            assert next(kind for kind, *_ in http2.frames(connection, 10) if kind == http2.HEADERS)
        assert_serves(server)


@pytest.fixture(scope="module")
def shared(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all that follows. Afterwards it still answers, has grown little, logged little, and drains."""
    log = tmp_path_factory.mktemp("server") / "log"
    with server_process(bundle, "--max-deadline-s", "1", "--max-stream-idle-s", "1", log=log) as running:
        assert_serves(running)
        before = psutil.Process(running.pid).memory_info().rss
        yield running
        assert_serves(running)
        grown = psutil.Process(running.pid).memory_info().rss - before
        assert grown < 200e6, f"{grown / 1e6:.0f} MB more than before"
        assert log.stat().st_size < 5000, log.read_text()[:5000]


def status(address: str, said: bytes, *, timeout_s: float = 5) -> tuple[int, str]:
    """gRPC's status and message of the one call that was made by hand."""
    with http2.connect(address) as connection:
        connection.sendall(http2.preface() + said)
        blocks = b""
        for kind, _, _, payload in http2.frames(connection, timeout_s):
            blocks += payload if kind == http2.HEADERS else b""
            if b"grpc-status" in blocks:
                break
    found = re.search(rb"grpc-status.(\d+)", blocks, re.DOTALL)
    assert found, "the call was not answered"
    return int(found[1]), blocks.decode("latin-1")


def refused(server: ServerProcess, message: bytes | digits_pb2.ClassifyRequest, **options: Any) -> tuple[str, str]:
    """Status and message of a call that must not be answered, and is refused at once."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    with grpc.insecure_channel(server.address, options=[("grpc.enable_retries", 0)]) as channel:
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(http2.CLASSIFY)(data, timeout=20, **options)
        assert time.monotonic() - started < 2
    return error.value.code().name, error.value.details()


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        ({"pixels": bytes(783)}, "INVALID_ARGUMENT", "pixels holds 783 bytes; a multiple of 784"),
        ({"pixels": b""}, "INVALID_ARGUMENT", "pixels is empty"),
        ({"pixels": bytes(784 * 1025)}, "INVALID_ARGUMENT", "1025 images; at most 1024"),
        ({"pixels": bytes(784 * 10_000)}, "RESOURCE_EXHAUSTED", "larger than max (7840005 vs. 4194304)"),
        ({"pixels": bytes(784), "model": "x" * 1_000_000}, "NOT_FOUND", "model 'xxxx"),
        ({"pixels": bytes(784), "version": "9" * 1_000_000}, "NOT_FOUND", "version '9999"),
        ({"pixels": bytes(784), "top_k": 11}, "INVALID_ARGUMENT", "top_k is 11"),
    ],
)
def test_a_bad_request_is_refused_at_once_in_few_words(
    shared: ServerProcess, request_: dict[str, Any], code: str, details: str
) -> None:
    found = refused(shared, digits_pb2.ClassifyRequest(**request_))
    assert found[0] == code
    assert details in found[1]
    assert len(found[1]) < 500


@pytest.mark.parametrize("end", [http2.END_STREAM, 0])
@pytest.mark.parametrize("arrived", [b"", b"\0", b"\0\0\0\1\0", b"\0\0\0\1\0only a part"])
@pytest.mark.parametrize("method", [http2.CLASSIFY, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_a_message_that_never_arrives_whole_is_not_waited_for(
    shared: ServerProcess, method: str, arrived: bytes, end: int
) -> None:
    """For ever, if it were left to gRPC; a second, by this server's configuration."""
    said = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(method))
    code, details = status(shared.address, said + http2.frame(http2.DATA, end, 1, arrived))
    assert (code, details[details.index("grpc-message") :][13:30]) in (
        [(3, "the call was ende")] if end else [(4, "no whole message ")]
    )


@pytest.mark.parametrize("arrived", [b"", b"\0\0\0\1\0only a part"])
@pytest.mark.parametrize(
    "method",
    [
        "/digits.v1.DigitRecognizer/ClassifyStream",
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_a_stream_whose_message_never_arrives_whole_is_ended(
    shared: ServerProcess, method: str, arrived: bytes
) -> None:
    said = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(method))
    code, details = status(shared.address, said + http2.frame(http2.DATA, 0, 1, arrived))
    assert code == 4
    assert "no whole message arrived for 1 s, the most that a stream may wait" in details


def test_a_message_that_would_be_a_thousand_times_larger_unpacked_is_not_unpacked(shared: ServerProcess) -> None:
    packed = gzip.compress(bytes(300_000_000), 1)
    process = psutil.Process(shared.pid)
    before = process.memory_info().rss
    said = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(grpc_encoding=b"gzip"))
    data = struct.pack(">BI", 1, len(packed)) + packed
    said += b"".join(
        http2.frame(http2.DATA, 0, 1, data[start : start + 16_000]) for start in range(0, len(data), 16_000)
    )
    with http2.connect(shared.address) as connection:
        connection.sendall(http2.preface() + said[:40_000])
        peak, answered = before, b""
        for kind, _, _, payload in http2.frames(connection, 2):
            peak = max(peak, process.memory_info().rss)
            answered += payload if kind == http2.HEADERS else b""
            connection.sendall(b"")
            if kind == http2.RST_STREAM:
                break
    assert peak - before < 50e6
    code, details = refused(shared, bytes(784), compression=grpc.Compression.Gzip)
    assert (code, details) == ("UNIMPLEMENTED", "Compression algorithm 'gzip' is disabled.")


def test_metadata_beyond_the_limit_is_refused_and_long_ones_are_not_repeated(shared: ServerProcess) -> None:
    message = digits_pb2.ClassifyRequest(pixels=b"few")
    code, details = refused(shared, message, metadata=[("long", "x" * 6000)])
    assert (code, len(details) < 500) == ("INVALID_ARGUMENT", True)
    code, details = refused(shared, message, metadata=[("long", "x" * 20_000)])
    assert (code, len(details) < 500) == ("RESOURCE_EXHAUSTED", True)


def test_headers_that_are_no_text_are_not_logged(shared: ServerProcess) -> None:
    """gRPC writes a traceback for each, with what was sent: here 300, which the log's size would show."""
    headers = http2.headers(authorization=b"Bearer \xff\xfe")
    with http2.connect(shared.address) as connection:
        connection.sendall(http2.preface())
        for stream in range(1, 600, 2):
            connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, headers))
        assert_serves(shared)


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(range(256)) * 40]
)
def test_what_is_no_http2_is_sent_away(shared: ServerProcess, said: bytes) -> None:
    with http2.connect(shared.address) as connection:
        connection.sendall(said)
        assert http2.is_closed(connection, 12)
    assert_serves(shared)


def test_thousands_of_calls_that_are_reset_as_soon_as_they_are_made_harm_nobody(shared: ServerProcess) -> None:
    message = digits_pb2.ClassifyRequest(pixels=bytes(784)).SerializeToString()
    reset = struct.pack(">I", 8)
    with http2.connect(shared.address) as connection, suppress(ConnectionError):
        connection.sendall(http2.preface())
        for stream in range(1, 6000, 2):
            connection.sendall(http2.call(stream, message) + http2.frame(http2.RST_STREAM, 0, stream, reset))
    assert_serves(shared)


def test_who_never_reads_a_streams_answers_keeps_nobody_from_theirs(shared: ServerProcess) -> None:
    message = digits_pb2.ClassifyRequest(pixels=bytes(784 * 10)).SerializeToString()
    path = "/digits.v1.DigitRecognizer/ClassifyStream"
    with http2.connect(shared.address) as connection:
        connection.sendall(http2.preface(_4=0))
        for stream in range(1, 100, 2):
            connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.headers(path)))
            connection.sendall(http2.frame(http2.DATA, 0, stream, grpc_frame(message)) * 2)
        assert_serves(shared)


async def test_thousands_of_calls_cancelled_at_any_moment_leave_the_others_their_answers(shared: ServerProcess) -> None:
    rng = random.Random(0)
    async with grpc.aio.insecure_channel(shared.address) as channel:
        stub = digits_pb2_grpc.DigitRecognizerStub(channel)

        async def ask(seed: int, patience_s: float | None) -> int | None:
            pixels = images(1 + seed % 5, seed)
            call = stub.Classify(digits_pb2.ClassifyRequest(pixels=pixels.tobytes()), timeout=20)
            if patience_s is not None:
                asyncio.get_running_loop().call_later(patience_s, call.cancel)
            try:
                return len((await call).predictions) - len(pixels)
            except (asyncio.CancelledError, grpc.aio.AioRpcError):
                return None

        for _ in range(10):
            patience = [None if seed % 10 == 0 else rng.random() * 0.05 for seed in range(200)]
            answers = await asyncio.gather(*map(ask, range(200), patience))
            kept = [answer for answer, seconds in zip(answers, patience, strict=True) if seconds is None]
            assert kept == [0] * 20
