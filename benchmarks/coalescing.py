"""`python -m benchmarks.coalescing`: what callers of one Python client gain when their calls share requests.

Closed loop: each caller sends its next image as soon as the last one is answered, from a thread of its own
(`DigitClient`) or a task (`AsyncDigitClient`), with and without `coalesce=True`. Each repeat measures everything in
turn; the figures are medians over the repeats, and ratios are formed within a repeat. The callers are in this process,
the server in one of its own, on the same cores.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import tyro

from clients import AsyncDigitClient, DigitClient, DigitError
from serve.errors import StartupError
from serve.process import ServerProcess, server_process
from train.conditions import conditions
from train.errors import TrainError
from train.storage import make_folder, save_json

LIBRARIES = ("grpcio", "numpy", "onnxruntime", "protobuf", "uvloop")

_IMAGE = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Path = Path("pretrained/compact")
    """What to serve."""

    callers: tuple[int, ...] = (1, 64)
    """Numbers of callers."""

    duration_s: float = 2.0
    """Seconds of each measurement, after a quarter of that which is not counted."""

    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """How often everything is measured."""

    output: Path = Path("benchmarks/results/coalescing.json")
    """Where the result is written."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """When calls count, by the performance counter: those that begin in it."""

    begin: float
    end: float


Load = Callable[[str, bool, int, Span], list[float]]
"""Given an address, whether to coalesce, and how many callers: the seconds that each call took."""


def main() -> int:
    """Exit status: 0 when everything was measured, 1 when something for it is missing."""
    options = tyro.cli(Options, prog="python -m benchmarks.coalescing", description=__doc__)
    try:
        make_folder(options.output.parent, "choose another file with --output")
        with (
            tempfile.TemporaryDirectory() as folder,
            server_process(options.bundle, log=Path(folder, "log")) as server,
        ):
            repeats = [_repeat(server, options) for _ in range(options.repeats)]
        medians = {name: round(statistics.median(each[name] for each in repeats), 3) for name in repeats[0]}
        result = {
            "conditions": conditions(LIBRARIES),
            "options": {
                "bundle": str(options.bundle),
                "callers": options.callers,
                "duration_s": options.duration_s,
                "repeats": options.repeats,
            },
            "medians": medians,
            "repeats": repeats,
        }
        save_json(options.output, result)
    except (StartupError, DigitError, TrainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in medians.items():
        print(f"{name:60} {value:12,.2f}")
    print(f"written to {options.output}")
    return 0


def _repeat(server: ServerProcess, options: Options) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind, load in (("threads", _threads), ("tasks", _tasks)):
        for callers in options.callers:
            name = f"{callers} {kind}"
            apart, shared = (_measure(server, load, share, callers, options.duration_s) for share in (False, True))
            figures |= {f"{name}, {what}": value for what, value in apart.items()}
            figures |= {f"{name}, coalescing, {what}": value for what, value in shared.items()}
            figures[f"{name}, coalescing, times the images/s"] = shared["images/s"] / apart["images/s"]
    return {name: round(value, 3) for name, value in figures.items()}


def _measure(server: ServerProcess, load: Load, share: bool, callers: int, duration_s: float) -> dict[str, float]:
    ours, theirs = psutil.Process(), psutil.Process(server.pid)
    begin = time.perf_counter() + duration_s / 4
    used_s = _cpu_s(ours), _cpu_s(theirs)
    seconds = load(server.address, share, callers, Span(begin=begin, end=begin + duration_s))
    # The calls before the beginning cost the same as those that count.
    calls = len(seconds) * 1.25
    return {
        "images/s": len(seconds) / duration_s,
        "p50 ms": float(np.percentile(seconds, 50)) * 1e3,
        "p99 ms": float(np.percentile(seconds, 99)) * 1e3,
        "client's CPU µs an image": (_cpu_s(ours) - used_s[0]) / calls * 1e6,
        "server's CPU µs an image": (_cpu_s(theirs) - used_s[1]) / calls * 1e6,
    }


def _threads(address: str, share: bool, callers: int, span: Span) -> list[float]:
    with DigitClient(address, coalesce=share) as client, ThreadPoolExecutor(callers) as threads:

        def call(_: int) -> list[float]:
            seconds = []
            while (begun := time.perf_counter()) < span.end:
                client.classify(_IMAGE)
                if begun >= span.begin:
                    seconds.append(time.perf_counter() - begun)
            return seconds

        return [each for seconds in threads.map(call, range(callers)) for each in seconds]


def _tasks(address: str, share: bool, callers: int, span: Span) -> list[float]:
    async def run() -> list[float]:
        seconds = []
        async with AsyncDigitClient(address, coalesce=share) as client:

            async def call() -> None:
                while (begun := time.perf_counter()) < span.end:
                    await client.classify(_IMAGE)
                    if begun >= span.begin:
                        seconds.append(time.perf_counter() - begun)

            await asyncio.gather(*(call() for _ in range(callers)))
        return seconds

    return asyncio.run(run())


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())
