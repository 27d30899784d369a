"""Real servers for the clients: the project's own in a process of its own, and a small one that does as it is told."""

import asyncio
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from clients import AsyncDigitClient, DigitClient
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.process import server_process


@pytest.fixture(scope="session")
def serving(bundle: Path, tmp_path_factory) -> Callable[..., AbstractContextManager[str]]:
    """`with serving("--max-batch", "1") as address:` runs `python -m serve` on a free port.

    On leaving it gets SIGTERM, and fails the test unless it drains and ends with status 0.
    """

    @contextmanager
    def serve(*flags: str) -> Iterator[str]:
        log = tmp_path_factory.mktemp("server") / "log"
        with server_process(bundle, *flags, log=log) as server:
            yield server.address
        # gRPC itself logs one when a caller's deadline of a millisecond passes while the answer is being sent.
        lines = log.read_text().splitlines()
        ends_in_grpc = sum(line.strip().startswith("grpc._cython.cygrpc.ExecuteBatchError") for line in lines)
        assert sum("Traceback" in line for line in lines) == ends_in_grpc, "\n".join(lines)

    return serve


@pytest.fixture(scope="session")
def address(serving) -> Iterator[str]:
    """Address of one server that all tests share; none of them can hurt it."""
    with serving() as address:
        yield address


@pytest.fixture
def raw(address: str) -> Iterator[digits_pb2_grpc.DigitRecognizerStub]:
    """The generated stub, which checks nothing and repeats nothing."""
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        yield digits_pb2_grpc.DigitRecognizerStub(channel)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 [40, 28, 28] of noise: images that an untidy caller might send, each another."""
    return np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Call:
    """A request as the obedient server saw it; times in seconds."""

    request: digits_pb2.ClassifyRequest
    arrived: float
    time_remaining: float | None
    request_id: str


class ObedientServer(digits_pb2_grpc.DigitRecognizerServicer):
    """Ends each call with the next of `statuses`, then answers; records every call."""

    def __init__(self) -> None:
        self.address = ""
        self.calls: list[Call] = []
        self.statuses: list[grpc.StatusCode] = []
        self.pushback_ms: int | None = None
        self.probabilities = [0.0] * 9 + [1.0]
        self.hold = threading.Event()
        self.hold.set()
        self.health = health.HealthServicer()
        self.report(serving=True)

    def report(self, *, serving: bool) -> None:
        """Say to those who watch whether digits are recognised."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        self.health.set("digits.v1.DigitRecognizer", status)

    def Classify(self, request, context):
        self._record(request, context)
        self.hold.wait(timeout=20)
        if self.statuses:
            if self.pushback_ms is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(self.pushback_ms)),))
            context.abort(self.statuses.pop(0), "as told")
        images = len(request.pixels) // 784
        predictions = [digits_pb2.Prediction(digit=9, probabilities=self.probabilities)] * images
        return digits_pb2.ClassifyResponse(model="told", version="1", predictions=predictions)

    def ClassifyStream(self, requests, context):
        for request in requests:
            yield digits_pb2.ClassifyStreamResponse(response=self.Classify(request, context))

    def GetModel(self, request, context):
        self._record(request, context)
        return digits_pb2.Model(name="told", version="1")

    def _record(self, request, context):
        request_id = dict(context.invocation_metadata()).get("x-request-id", "")
        self.calls.append(Call(request, time.monotonic(), context.time_remaining(), request_id))

    @contextmanager
    def serve(self, address: str = "127.0.0.1:0") -> Iterator["ObedientServer"]:
        """Listen; on a free port unless one is named."""
        server = grpc.server(ThreadPoolExecutor(8))
        digits_pb2_grpc.add_DigitRecognizerServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self.address = f"127.0.0.1:{server.add_insecure_port(address)}"
        server.start()
        try:
            yield self
        finally:
            self.hold.set()
            server.stop(grace=None).wait()


@pytest.fixture
def obedient() -> Iterator[ObedientServer]:
    """A gRPC server on a free port that does as the test tells it."""
    with ObedientServer().serve() as server:
        yield server


@pytest.fixture
def another() -> Iterator[ObedientServer]:
    """Another one."""
    with ObedientServer().serve() as server:
        yield server


@pytest.fixture
def free_address() -> str:
    """A port of this machine that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


Ask = Callable[..., Any]


def ask_sync(method: str, address: str, *arguments: object, **options: object) -> Any:
    with DigitClient(address) as client:
        return getattr(client, method)(*arguments, **options)


def ask_async(method: str, address: str, *arguments: object, **options: object) -> Any:
    async def ask() -> Any:
        async with AsyncDigitClient(address) as client:
            return await getattr(client, method)(*arguments, **options)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask("classify", address, images, ...)` makes one call with a client of its own."""
    return request.param
