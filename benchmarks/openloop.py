"""`python -m benchmarks.openloop ADDRESS`: requests that come when they like, not when the last one is answered.

Arrivals are a Poisson process. A request's latency and its deadline run from the moment for which it was planned,
whether or not it could be sent then, so that a server that falls behind does not slow down what measures it. Nothing
is dropped: what is not answered, or too late, is counted by what became of it.

The callers' side of HTTP/2 is written out here, because it has to cost far less than the server does: some 20 µs a
request. gRPC's Python client takes 150 to 350 µs, the package h2 115 µs for the protocol alone, and h2load has no open
loop. What is sent is a constant but for a few bytes. Headers that come are not decoded; they are asked for without
compression by a table, so that `grpc-status` can be found in them.
"""

import collections
import contextlib
import dataclasses
import gc
import json
import math
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import grpc
import numpy as np
import tyro

from benchmarks.h2load import frame as message_frame
from benchmarks.http2 import (
    ACK,
    CLASSIFY,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAGIC,
    MAX_CONCURRENT_STREAMS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    field,
    frame,
    headers,
)
from benchmarks.measurement import Measurement, percentiles
from protos.digits.v1 import digits_pb2

_FIRST_WINDOW, _LARGEST_WINDOW, _LARGEST_FRAME = (1 << 16) - 1, (1 << 31) - 1, 1 << 14

# So much may wait for the kernel; more waits here, where deadlines are watched.
_UNSENT_BYTES = 1 << 16

# How long answers are waited for when the last request has been sent.
_PATIENCE_S = 2.0

_STATUS = {str(code.value[0]).encode(): code.name for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    address: tyro.conf.Positional[str]
    """HOST:PORT of the server."""

    rate_per_s: float = 1000.0
    """Requests that come in a second, on average."""

    images: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Images in each request, up to 20."""

    duration_s: float = 3.0
    """Seconds whose requests are counted."""

    warmup_s: float = 1.0
    """Seconds before that, whose requests are not."""

    deadline_ms: float | None = None
    """Each request's deadline. Default: none."""

    connections: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Connections, which take turns."""

    seed: int = 0
    """Decides when requests come, and their pixels."""

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 20:
            raise ValueError(f"--images is {self.images}; 1 to 20 were expected, which one frame can carry")
        if not self.rate_per_s > 0:
            raise ValueError(f"--rate-per-s is {self.rate_per_s:g}; a number above 0 was expected")


@dataclass(slots=True)
class Request:
    """One request and what became of it. Times are in seconds of the performance counter.

    Attributes:
        planned: When it was to be sent.
        sent: When it was.
        answered: When its reply came.
        reply: The reply, with gRPC's frame around it.
        ending: What ended it: gRPC's status, or what happened instead.
    """

    planned: float
    sent: float = 0.0
    answered: float = 0.0
    reply: bytes = b""
    ending: str = "unanswered"


class Connection:
    """An HTTP/2 connection that carries calls of one unary method, always with the same message."""

    def __init__(self, address: str, method: str, message: bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = headers(method)
        self._body = message_frame(message)
        assert len(self._body) <= _LARGEST_FRAME, f"a message of up to {_LARGEST_FRAME} bytes was expected"
        self._window = _FIRST_WINDOW
        self._most_open = 0
        self._open: dict[int, Request] = {}
        self._stream = -1
        self._received = b""
        # Windows that no run can fill, and no table of earlier headers.
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        self._unsent = MAGIC + frame(SETTINGS, 0, 0, settings)
        self._unsent += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW))
        self.flush()
        while not self._most_open:  # until the server's settings have come
            self.receive()
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to `flush`."""
        return bool(self._unsent)

    @property
    def is_waiting(self) -> bool:
        """Whether there are calls under way."""
        return bool(self._open)

    @property
    def has_room(self) -> bool:
        """Whether the server would take one more request now."""
        return (
            len(self._open) < self._most_open and self._window >= len(self._body) and len(self._unsent) < _UNSENT_BYTES
        )

    def send(self, request: Request, rest_s: float | None) -> None:
        """Add a request, which has so much time left, to what the next `flush` sends."""
        self._stream += 2
        block = self._head if rest_s is None else self._head + _timeout(rest_s)
        self._unsent += frame(HEADERS, END_HEADERS, self._stream, block)
        self._unsent += frame(DATA, END_STREAM, self._stream, self._body)
        self._window -= len(self._body)
        self._open[self._stream] = request

    def flush(self) -> None:
        """Send what the kernel takes."""
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def receive(self) -> None:
        """Take what has come.

        Raises:
            ConnectionError: The server has closed the connection, or is about to.
        """
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise ConnectionError("the server has closed the connection")
        now = time.perf_counter()
        received = self._received + chunk
        start = 0
        while start + HEAD.size <= len(received):
            high, low, kind, flags, stream = HEAD.unpack_from(received, start)
            end = start + HEAD.size + (high << 8 | low)
            if end > len(received):
                break
            self._take(kind, flags, stream, received[start + HEAD.size : end], now)
            start = end
        self._received = received[start:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        request = self._open.get(stream)
        if request is not None:
            if kind == DATA:
                request.reply += payload
                request.answered = now
            elif kind == HEADERS:
                request.ending = _status(payload) or request.ending
            elif kind == RST_STREAM:
                request.ending = "reset"
            if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                del self._open[stream]
        elif kind == PING and not flags & ACK:
            self._unsent += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            settings = dict(struct.iter_unpack(">HI", payload))
            if settings.get(INITIAL_WINDOW_SIZE, _FIRST_WINDOW) < len(self._body):
                raise ConnectionError(f"the server takes no {len(self._body)} bytes at once")
            self._most_open = settings.get(MAX_CONCURRENT_STREAMS, self._most_open or _LARGEST_WINDOW)
            self._unsent += frame(SETTINGS, ACK, 0)
        elif kind == GOAWAY:
            raise ConnectionError("the server is closing the connection")


def _timeout(rest_s: float) -> bytes:
    return field(b"grpc-timeout", b"%du" % max(1, int(rest_s * 1e6)))


def _status(block: bytes) -> str | None:
    """The call's status in a block of headers, if it is there: a name, the length of the value, the value."""
    _, found, rest = block.partition(b"grpc-status")
    return _STATUS.get(rest[1 : 1 + rest[0]], "unknown status") if found else None


def drive(connections: Sequence[Connection], requests: Sequence[Request], deadline_s: float | None) -> None:
    """Send each request when it is planned, or as soon after as the server takes it, and note what becomes of it."""
    end = requests[-1].planned + (deadline_s or 0.0) + _PATIENCE_S
    following = 0
    while (now := time.perf_counter()) < end:
        while following < len(requests) and requests[following].planned <= now:
            request = requests[following]
            if deadline_s is not None and request.planned + deadline_s <= now:
                request.ending = "not sent in time"
            elif connection := _with_room(connections, following):
                request.sent = now
                connection.send(request, deadline_s and request.planned + deadline_s - now)
            else:
                break
            following += 1
            now = time.perf_counter()
        for connection in connections:
            if connection.has_unsent:
                connection.flush()
        if following == len(requests) and not any(connection.is_waiting for connection in connections):
            return
        planned = requests[following].planned if following < len(requests) else end
        # What is overdue waits for an answer that makes room.
        wait_s = planned - now if planned > now else _PATIENCE_S
        blocked = [connection for connection in connections if connection.has_unsent]
        for connection in select.select(connections, blocked, [], max(0.0, wait_s))[0]:
            connection.receive()


def _with_room(connections: Sequence[Connection], turn: int) -> Connection | None:
    for offset in range(len(connections)):
        connection = connections[(turn + offset) % len(connections)]
        if connection.has_room:
            return connection
    return None


def summarise(requests: Iterable[Request], *, duration_s: float, deadline_s: float | None) -> Measurement:
    """What became of the requests, which were planned within so many seconds."""
    answered, failed = [], collections.Counter[str]()
    for request in requests:
        if not request.reply:
            failed[request.ending] += 1
        elif deadline_s is not None and request.answered > request.planned + deadline_s:
            failed["answered late"] += 1
        else:
            answered.append(request)
    return Measurement(
        answered=len(answered),
        answered_per_s=len(answered) / duration_s,
        latency_ms=percentiles([1e3 * (request.answered - request.planned) for request in answered]),
        failed=dict(failed),
        figures=_figures(answered) if answered else {},
    )


def _figures(answered: Sequence[Request]) -> dict[str, float]:
    replies = [digits_pb2.ClassifyResponse.FromString(request.reply[5:]) for request in answered]
    # Every answer of a batch tells its size and time, so each stands for a share of one engine call.
    shares = [len(reply.predictions) / reply.batch_size for reply in replies]
    return {
        "images of the average engine call": sum(len(reply.predictions) for reply in replies) / sum(shares),
        "ms of the average engine call": float(
            np.average([reply.compute_us / 1e3 for reply in replies], weights=shares)
        ),
        "ms sent late, p99": float(np.percentile([1e3 * (request.sent - request.planned) for request in answered], 99)),
    }


def measure(
    address: str, *, rate_per_s: float, duration_s: float, images: int = 1, deadline_ms: float | None = None
) -> Measurement:
    """`run`, in a process of its own.

    Raises:
        RuntimeError: It failed.
    """
    words = [sys.executable, "-m", "benchmarks.openloop", address]
    words += ["--rate-per-s", str(rate_per_s), "--duration-s", str(duration_s), "--images", str(images)]
    words += [] if deadline_ms is None else ["--deadline-ms", str(deadline_ms)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[1:])} ended with status {done.returncode}: {done.stderr or done.stdout}")
    return Measurement(**json.loads(done.stdout))


def plan(random: np.random.Generator, rate_per_s: float, seconds: float) -> list[float]:
    """When requests are due in a Poisson process of so many seconds.

    Raises:
        ValueError: None is.
    """
    mean = rate_per_s * seconds
    # Ten standard deviations more than the mean: they do not end before the time does.
    due = np.cumsum(random.exponential(1 / rate_per_s, round(mean + 10 * math.sqrt(mean) + 10)))
    planned: list[float] = due[due < seconds].tolist()
    if not planned:
        raise ValueError(f"no request is due in {seconds:g} s at {rate_per_s:g} a second; measure for longer")
    return planned


def run(options: Options) -> Measurement:
    """Load the server and return what was seen.

    Raises:
        OSError: There is no server, or it left.
        ValueError: There is nothing to send.
    """
    random = np.random.default_rng(options.seed)
    message = digits_pb2.ClassifyRequest(pixels=random.integers(0, 256, options.images * 784, dtype=np.uint8).tobytes())
    deadline_s = None if options.deadline_ms is None else options.deadline_ms / 1e3
    seconds = options.warmup_s + options.duration_s
    planned = plan(random, options.rate_per_s, seconds)
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(contextlib.closing(Connection(options.address, CLASSIFY, message.SerializeToString())))
            for _ in range(options.connections)
        ]
        start = time.perf_counter() + 0.1
        requests = [Request(planned=start + each) for each in planned]
        drive(connections, requests, deadline_s)
    counted = [request for request in requests if request.planned >= start + options.warmup_s]
    return summarise(counted, duration_s=options.duration_s, deadline_s=deadline_s)


def main() -> int:
    """Exit status: 0 when it was measured, 1 when there was no server to be measured, it left, or nothing was due."""
    options = tyro.cli(Options, prog="python -m benchmarks.openloop", description=__doc__)
    gc.freeze()
    gc.disable()  # nothing here is a cycle, and a collection would look like a slow server
    try:
        measurement = run(options)
    except (OSError, ValueError) as error:
        print(f"error: {options.address}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(dataclasses.asdict(measurement)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
