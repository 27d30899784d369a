"""`python -m clients.benchmark`: latency and throughput of a running server.

Closed loop: each of N callers sends its next request as soon as the last one is answered, for each N of a sweep. The
time of a request runs from just before the call until the answer is parsed. Failed calls are counted by status code
and have no part in the latencies; nothing is retried.

One Python process drives the load, and costs as much per request as the server does: at high concurrency this program
is part of what it measures. The last line of the output is one JSON document with everything in the table.
"""

import asyncio
import collections
import dataclasses
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
import tyro

from clients import access
from clients.access import AccessOptions
from clients.answers import ModelInfo
from clients.channel import open_aio_channel
from clients.client import DigitClient
from clients.errors import DigitError
from protos.digits.v1 import digits_pb2, digits_pb2_grpc

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    address: str = "127.0.0.1:8001"
    """HOST:PORT of the server."""

    concurrency: tuple[int, ...] = (1, 8, 64)
    """Numbers of callers, one measurement each."""

    images: int = 1
    """Images in each request."""

    duration_s: float = 5.0
    """Seconds that are measured at each number of callers."""

    warmup_s: float = 1.0
    """Seconds before that, whose requests are not counted."""

    timeout_s: float = 5.0
    """Deadline of each request in seconds."""

    seed: int = 0
    """Decides the random pixels; the time an engine takes does not depend on them."""

    access: tyro.conf.OmitArgPrefixes[AccessOptions] = field(default_factory=AccessOptions)

    def __post_init__(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1 or max(self.concurrency) > 4096:
            raise ValueError(f"--concurrency is {self.concurrency}; one or more numbers from 1 to 4096 were expected")
        if self.images < 1:
            raise ValueError(f"--images is {self.images}; at least 1 was expected")
        if self.duration_s <= 0 or self.warmup_s < 0 or self.timeout_s <= 0:
            raise ValueError(
                f"--duration-s {self.duration_s}, --warmup-s {self.warmup_s}, --timeout-s {self.timeout_s}: "
                "expected above 0, at least 0, above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Level:
    """What was measured at one number of callers. Latencies are in milliseconds, by name of `PERCENTILES`."""

    concurrency: int
    requests: int
    errors: dict[str, int]
    requests_per_s: float
    images_per_s: float
    latency_ms: dict[str, float]
    mean_batch: float


@dataclass(kw_only=True)
class _Recording:
    """What the callers of one level saw, in seconds of the performance counter.

    A latency counts if its request was sent between `start` and `stop`, however long it took; throughput is what was
    answered between them.
    """

    start: float
    stop: float
    answered: int = 0
    latencies_s: list[float] = dataclasses.field(default_factory=list)
    batches: list[int] = dataclasses.field(default_factory=list)
    errors: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


async def measure(options: Options, concurrency: int) -> Level:
    """Load the server with `concurrency` callers and return what they saw."""
    pixels = np.random.default_rng(options.seed).integers(0, 256, options.images * 784, dtype=np.uint8)
    request = digits_pb2.ClassifyRequest(pixels=pixels.tobytes())
    start = time.perf_counter() + options.warmup_s
    recording = _Recording(start=start, stop=start + options.duration_s)
    metadata = access.metadata(options.access.token())
    # Repeated calls would hide refusals, and their waiting would count as latency.
    async with open_aio_channel(options.address, options.access.tls(), retry=False) as channel:
        stub = digits_pb2_grpc.DigitRecognizerStub(channel)
        classify = functools.partial(stub.Classify, request, timeout=options.timeout_s, metadata=metadata)
        async with asyncio.TaskGroup() as callers:
            for _ in range(concurrency):
                callers.create_task(_call_repeatedly(classify, recording))
    return _summarise(options, concurrency, recording)


async def _call_repeatedly(
    classify: "Callable[[], Awaitable[digits_pb2.ClassifyResponse]]", recording: _Recording
) -> None:
    while (sent := time.perf_counter()) < recording.stop:
        try:
            response = await classify()
        except grpc.aio.AioRpcError as error:
            if sent >= recording.start:
                recording.errors[error.code().name] += 1
            # A server that refuses at once would otherwise be asked thousands of times a second.
            await asyncio.sleep(0.01)
            continue
        answered = time.perf_counter()
        recording.answered += recording.start <= answered <= recording.stop
        if sent >= recording.start:
            recording.latencies_s.append(answered - sent)
            recording.batches.append(response.batch_size)


def _summarise(options: Options, concurrency: int, recording: _Recording) -> Level:
    latencies_ms = np.array(recording.latencies_s) * 1e3
    requests_per_s = recording.answered / options.duration_s
    return Level(
        concurrency=concurrency,
        requests=len(latencies_ms),
        errors=dict(recording.errors),
        requests_per_s=requests_per_s,
        images_per_s=requests_per_s * options.images,
        latency_ms={name: float(np.percentile(latencies_ms, q)) for name, q in PERCENTILES.items()}
        if len(latencies_ms)
        else {},
        mean_batch=float(np.mean(recording.batches)) if recording.batches else 0.0,
    )


def table(levels: list[Level]) -> str:
    """The measurements for people, one line per number of callers."""
    heads = (
        "callers",
        "requests",
        "requests/s",
        "images/s",
        *(f"{name} ms" for name in PERCENTILES),
        "batch",
        "errors",
    )
    rows = [
        (
            str(level.concurrency),
            f"{level.requests:,}",
            f"{level.requests_per_s:,.0f}",
            f"{level.images_per_s:,.0f}",
            *(f"{level.latency_ms[name]:.2f}" if level.latency_ms else "-" for name in PERCENTILES),
            f"{level.mean_batch:.1f}",
            ", ".join(f"{code} {count}" for code, count in sorted(level.errors.items())) or "none",
        )
        for level in levels
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows))
    return "\n".join(lines)


def report(options: Options, model: ModelInfo, levels: list[Level]) -> dict[str, object]:
    """Everything measured and its conditions, as plain data."""
    return {
        "options": dataclasses.asdict(options) | {"access": "TLS" if options.access.tls_root else "plain text"},
        "model": dataclasses.asdict(model),
        "client": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
        },
        "levels": [dataclasses.asdict(level) for level in levels],
    }


def main() -> int:
    """Exit status: 0 when every request was answered, 1 when some failed or none was measured, 130 after Ctrl-C."""
    try:
        options = tyro.cli(Options, prog="python -m clients.benchmark", description=__doc__)
        with DigitClient(options.address, tls=options.access.tls(), token=options.access.token()) as client:
            model = client.get_model()
        if options.images > model.max_images_per_request:
            raise ValueError(
                f"--images is {options.images}; this server accepts at most {model.max_images_per_request} in a request"
            )
    except (DigitError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    levels: list[Level] = []
    interrupted = False
    try:
        for concurrency in options.concurrency:
            seconds = options.warmup_s + options.duration_s
            print(f"callers: {concurrency}, {seconds:g} s …", file=sys.stderr, flush=True)
            levels.append(asyncio.run(measure(options, concurrency)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        interrupted = True
    print(table(levels))
    print(json.dumps(report(options, model, levels)))
    if interrupted:
        return 130
    return 1 if any(level.errors or not level.requests for level in levels) else 0


if __name__ == "__main__":
    sys.exit(main())
