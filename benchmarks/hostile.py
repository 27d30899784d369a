"""`python -m benchmarks.hostile`: what a well-behaved caller notices of one that is not.

The caller asks for one image at a time, 100 times a second. Each round takes its latencies alone and beside the
attacker, a process of its own; what is published is the ratio, the median of the rounds'. On a machine with few cores
any process that computes slows its neighbours, so each round ends with a control: a process that uses as much
processor time as the attacker did and never touches the server.
"""

import gzip
import itertools
import multiprocessing
import os
import random
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import tyro

from benchmarks import http2
from benchmarks.h2load import frame as grpc_frame
from clients import DigitClient, DigitError
from protos.digits.v1 import digits_pb2
from serve.errors import StartupError
from serve.process import ServerProcess, server_process
from train.conditions import conditions
from train.errors import TrainError
from train.storage import make_folder, save_json

LIBRARIES = ("grpcio", "numpy", "onnxruntime", "protobuf", "uvloop")
STREAM = "/digits.v1.DigitRecognizer/ClassifyStream"
ONE = digits_pb2.ClassifyRequest(pixels=bytes(784)).SerializeToString()

_CALLS_PER_S = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Path = Path("pretrained/compact")
    """What to serve."""

    output: Path = Path("benchmarks/results/hostile.json")
    """Where the result is written."""

    rounds: int = 5
    """How often everything is measured."""

    duration_s: float = 1.5
    """Seconds of each measurement."""


def _bad_requests(address: str) -> Iterator[None]:
    """Everything that is refused after it was read, 100 a second."""
    requests = [
        digits_pb2.ClassifyRequest(pixels=bytes(783)),
        digits_pb2.ClassifyRequest(),
        digits_pb2.ClassifyRequest(pixels=bytes(784), model="x" * 10_000),
        digits_pb2.ClassifyRequest(pixels=bytes(784), version="9" * 10_000),
    ]
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        classify: Any = channel.unary_unary(http2.CLASSIFY)
        for message in itertools.cycle([*(each.SerializeToString() for each in requests), b"\xff" * 1000]):
            classify.future(message, timeout=5)
            yield


def _too_large(address: str) -> Iterator[None]:
    """10,000 images in a message, which the transport refuses."""
    message = digits_pb2.ClassifyRequest(pixels=bytes(784 * 10_000)).SerializeToString()
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        classify: Any = channel.unary_unary(http2.CLASSIFY)
        while True:
            classify.future(message, timeout=5)
            yield


def _bombs(address: str) -> Iterator[None]:
    """Messages of 300 KB that would be 300 MB unpacked."""
    packed = gzip.compress(bytes(300_000_000))
    data = struct.pack(">BI", 1, len(packed)) + packed
    headers = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(grpc_encoding=b"gzip"))
    while True:
        with suppress(OSError), http2.connect(address) as connection:
            connection.sendall(http2.preface() + headers)
            for start in range(0, len(data), 16_000):
                connection.sendall(http2.frame(http2.DATA, 0, 1, data[start : start + 16_000]))
        yield


def _garbage(address: str) -> Iterator[None]:
    """Connections that send what is no HTTP/2, some of it the beginning of TLS."""
    rng = random.Random(0)
    while True:
        with suppress(OSError), http2.connect(address) as connection:
            connection.sendall(rng.choice([b"", b"\x16\x03\x01\x02"]) + rng.randbytes(500))
        yield


def _silence(address: str) -> Iterator[None]:
    """Connections that say nothing, and are kept."""
    with ExitStack() as connections:
        while True:
            with suppress(OSError):
                connections.enter_context(http2.connect(address))
            yield


def _unfinished(address: str) -> Iterator[None]:
    """Calls whose message never ends, 500 on each connection."""
    begin = b"\0" + struct.pack(">I", len(ONE)) + ONE[:100]
    with ExitStack() as connections:
        while True:
            with suppress(OSError):
                connection = connections.enter_context(http2.connect(address))
                connection.sendall(http2.preface())
                for stream in range(1, 1001, 2):
                    connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.headers()))
                    connection.sendall(http2.frame(http2.DATA, 0, stream, begin))
                    yield
            yield  # so that connections that fail are no more than those that do not


def _resets(address: str) -> Iterator[None]:
    """Calls that are reset as soon as they are made."""
    cancel = struct.pack(">I", 8)
    while True:
        with suppress(OSError), http2.connect(address) as connection:
            connection.sendall(http2.preface())
            for stream in range(1, 2001, 2):
                connection.sendall(http2.call(stream, ONE) + http2.frame(http2.RST_STREAM, 0, stream, cancel))
                yield
        yield


def _cancels(address: str) -> Iterator[None]:
    """Calls that are cancelled after anything up to 5 ms."""
    rng = random.Random(0)
    with grpc.insecure_channel(address) as channel:
        classify: Any = channel.unary_unary(http2.CLASSIFY)
        while True:
            call = classify.future(ONE, timeout=5)
            time.sleep(rng.random() * 0.005)
            call.cancel()
            yield


def _unread(address: str) -> Iterator[None]:
    """Streams whose answers are never read, a few messages in each."""
    with ExitStack() as connections:
        while True:
            with suppress(OSError):
                connection = connections.enter_context(http2.connect(address))
                connection.sendall(http2.preface(_4=0))
                for stream in range(1, 101, 2):
                    connection.sendall(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, http2.headers(STREAM)))
                    connection.sendall(http2.frame(http2.DATA, 0, stream, grpc_frame(ONE)) * 4)
                    yield
            yield


def _long_metadata(address: str) -> Iterator[None]:
    """Calls with metadata just below and beyond what is accepted."""
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        classify: Any = channel.unary_unary(http2.CLASSIFY)
        for size in itertools.cycle([6_000, 60_000]):
            classify.future(ONE, timeout=5, metadata=(("long", "x" * size),))
            yield


ATTACKS: dict[str, tuple[Callable[[str], Iterator[None]], int]] = {
    "bad requests": (_bad_requests, 100),
    "10,000 images in a message": (_too_large, 5),
    "compressed bombs": (_bombs, 5),
    "garbage instead of HTTP/2": (_garbage, 100),
    "silent connections": (_silence, 100),
    "messages that never end": (_unfinished, 200),
    "streams that are reset": (_resets, 200),
    "calls that are cancelled": (_cancels, 100),
    "streams that are never read": (_unread, 50),
    "long metadata": (_long_metadata, 100),
}
"""What is done, and how often a second."""


def main() -> int:
    """Exit status: 0 when everything was measured, 1 when something for it is missing."""
    options = tyro.cli(Options, prog="python -m benchmarks.hostile", description=__doc__)
    settings = {
        "rounds": options.rounds,
        "duration_s": options.duration_s,
        "calls_per_s": _CALLS_PER_S,
        "bundle": str(options.bundle),
    }
    try:
        make_folder(options.output.parent, "choose another file with --output")
        cases = {name: _case(name, options) for name in ATTACKS}
        save_json(options.output, {"conditions": conditions(LIBRARIES), "options": settings, "cases": cases})
    except (StartupError, DigitError, RuntimeError, TrainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {options.output}")
    return 0


def _case(name: str, options: Options) -> dict[str, Any]:
    """One attack on a server of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server_process(options.bundle, "--max-deadline-s", "2", log=(log := Path(folder, "log"))) as server,
        DigitClient(server.address) as client,
    ):
        _percentiles(client, 1)  # warm-up
        memory_mb, log_bytes = _memory_mb(server), log.stat().st_size
        rounds = [_round(name, server, client, options.duration_s) for _ in range(options.rounds)]
        grown_mb, logged_bytes = _memory_mb(server) - memory_mb, log.stat().st_size - log_bytes
    times = {
        who: {
            q: round(statistics.median(each[who][q] / each["alone, ms"][q] for each in rounds), 2)
            for q in ("p50", "p99")
        }
        for who in ("under attack, ms", "beside the control, ms")
    }
    attacked, controlled = times.values()
    print(f"{name:28} {attacked}  beside the control {controlled}  {grown_mb:+.0f} MB", flush=True)
    return {
        "attacks_per_s": ATTACKS[name][1],
        "under attack, times alone": attacked,
        "beside the control, times alone": controlled,
        "server grew by MB": round(grown_mb, 1),
        "server logged bytes": logged_bytes,
        "rounds": rounds,
    }


def _round(name: str, server: ServerProcess, client: DigitClient, duration_s: float) -> dict[str, Any]:
    served = psutil.Process(server.pid)
    begun_s = _cpu_s(served)
    alone = _percentiles(client, duration_s)
    server_share = (_cpu_s(served) - begun_s) / duration_s
    with _beside(_attack, name, server.address) as attacker:
        begun_s, server_begun_s = _cpu_s(attacker), _cpu_s(served)
        under_attack = _percentiles(client, duration_s)
        cpu_share = (_cpu_s(attacker) - begun_s) / duration_s
        attacked_share = (_cpu_s(served) - server_begun_s) / duration_s
    with _beside(_burn, cpu_share):
        beside_control = _percentiles(client, duration_s)
    return {
        "alone, ms": alone,
        "under attack, ms": under_attack,
        "beside the control, ms": beside_control,
        "attacker's share of a core": round(cpu_share, 3),
        "server's share of a core, alone": round(server_share, 3),
        "server's share of a core, under attack": round(attacked_share, 3),
    }


def _percentiles(client: DigitClient, duration_s: float) -> dict[str, float]:
    """Milliseconds of each call, from when it was due: what delays one call counts for those that wait behind it."""
    image = np.zeros((28, 28), np.uint8)
    start = time.perf_counter()
    latencies_ms = []
    for number in range(round(duration_s * _CALLS_PER_S)):
        due = start + number / _CALLS_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        client.classify(image)
        latencies_ms.append(1e3 * (time.perf_counter() - due))
    return {name: round(float(np.percentile(latencies_ms, q)), 3) for name, q in {"p50": 50, "p99": 99}.items()}


@contextmanager
def _beside(target: Callable[..., None], *arguments: object) -> Iterator[psutil.Process]:
    """A process that runs meanwhile; its work has begun when this does.

    Raises:
        RuntimeError: It did not begin, or ended before.
    """
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=target, args=(begun, *arguments), daemon=True)
    process.start()
    try:
        if not begun.wait(60):
            raise RuntimeError(f"{target.__name__}{arguments} did not begin within 60 s")
        yield psutil.Process(process.pid)
        if not process.is_alive():
            raise RuntimeError(f"{target.__name__}{arguments} ended with status {process.exitcode} before its time")
    finally:
        process.kill()
        process.join()


def _attack(begun: Any, name: str, address: str) -> None:
    attack, per_s = ATTACKS[name]
    strikes = attack(address)
    next(strikes)
    begun.set()
    start = time.perf_counter()
    for number in itertools.count():
        time.sleep(max(0.0, start + number / per_s - time.perf_counter()))
        next(strikes)


def _burn(begun: Any, cpu_share: float) -> None:
    """Computes for that share of every 10 ms."""
    begun.set()
    start = time.perf_counter()
    for number in itertools.count():
        begin = start + number * 0.01
        while time.perf_counter() < begin + 0.01 * min(1.0, cpu_share):
            pass
        time.sleep(max(0.0, begin + 0.01 - time.perf_counter()))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory_mb(server: ServerProcess) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 1e6)


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.exit(main())
