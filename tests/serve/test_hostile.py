"""Callers that mean harm: what they send is refused, nothing of it is kept, and everybody else is served on."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.process import ServerProcess, server_process
from tests.fakes import images

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A real server, which must drain and end with status 0 after the test."""
    with server_process(bundle, log=tmp_path / "log") as running:
        yield running


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame, RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header field without indexing or compression, RFC 7541 section 6.2.2."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call_path(address: str, path: bytes) -> None:
    """A gRPC call of a path that no client library would send; returns when the server has reacted."""
    host, port = address.split(":")
    fields = {b":method": b"POST", b":scheme": b"http", b":path": path, b":authority": b"x"}
    fields |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    headers = b"".join(header(name, value) for name, value in fields.items())
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        connection.sendall(frame(HEADERS, END_HEADERS, 1, headers) + frame(DATA, END_STREAM, 1, bytes(5)))
        connection.settimeout(1)
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
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
    with server_process(bundle, "--max-calls", "40", log=tmp_path / "log") as server:
        host, port = server.address.split(":")
        fields = {b":method": b"POST", b":scheme": b"http", b":path": b"/digits.v1.DigitRecognizer/Classify"}
        fields |= {b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers"}
        headers = b"".join(header(name, value) for name, value in fields.items())
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
            for stream in range(1, 200, 2):
                connection.sendall(frame(HEADERS, END_HEADERS, stream, headers))
            assert_serves(server)
