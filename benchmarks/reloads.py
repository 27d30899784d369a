"""`python -m benchmarks.reloads`: a thousand reloads of a tiny bundle in one server process; do they leave anything?

The bundle is published again and again over itself, each time as another version, and the server, started with
`--watch`, takes each into service. Every so many reloads: the server's memory, threads and open files, and the latency
of calls, against that of a second server, which serves the first version all the time: the machine is shared, and its
speed drifts. The exit status says whether the last figures are the first ones.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import tyro

from bundle import Bundle, BundleError, publish
from clients import DigitClient
from serve.errors import StartupError
from serve.process import server_process
from train.conditions import conditions
from train.errors import TrainError
from train.storage import make_folder, save_json

LIBRARIES = ("grpcio", "numpy", "onnxruntime", "protobuf", "uvloop", "watchfiles")

# The allocator needs some reloads to find its size; what grows after them is a leak.
_WARM_UP = 100
_MOST_GROWTH_MB = 5.0
# asyncio has so many workers at most on top of what it has started by then, and starts them when it finds none idle.
_MOST_THREADS = 6
# Of the latency as a multiple of the other server's; it is no steadier than this.
_MOST_SLOWER = 1.2

_CALLS = 500


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Path = Path("pretrained/compact")
    """What to serve; a copy of it is changed."""

    reloads: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    """How many."""

    every: Annotated[int, tyro.conf.arg(metavar="N")] = 50
    """How many of them lie between two measurements."""

    output: Path = Path("benchmarks/results/reloads.json")
    """Where the result is written."""

    def __post_init__(self) -> None:
        if not 1 <= self.every <= self.reloads:
            raise ValueError(f"--every is {self.every}; 1 to --reloads, which is {self.reloads}, was expected")


def main() -> int:
    """Exit status: 0 when nothing grew, 1 when something did or could not be measured."""
    options = tyro.cli(Options, prog="python -m benchmarks.reloads", description=__doc__)
    try:
        make_folder(options.output.parent, "choose another file with --output")
        return _run(options)
    except (BundleError, StartupError, TrainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: Options) -> int:
    source = Bundle.open(options.bundle)
    files = {name: source.read(name) for name in source.manifest.files}
    seconds, samples = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        publish(path, replace(source.manifest, version="1"), files)
        with (
            server_process(path, "--slots", "1", log=Path(folder) / "log of the other") as other,
            server_process(path, "--watch", "--slots", "1", log=Path(folder) / "log") as server,
            DigitClient(server.address) as client,
            DigitClient(other.address) as other_client,
        ):
            for number in range(options.reloads + 1):
                if number:
                    version = str(number + 1)
                    started = time.perf_counter()
                    publish(path, replace(source.manifest, version=version), files)
                    _wait_for(client, version)
                    seconds.append(time.perf_counter() - started)
                if number % options.every == 0:
                    samples.append(_sample(number, psutil.Process(server.pid), client, other_client))
                    print(samples[-1], flush=True)
    verdict = _judge([sample for sample in samples if sample["reloads"] >= min(_WARM_UP, options.reloads // 2)])
    result = {
        "conditions": conditions(LIBRARIES),
        "options": {"bundle": str(options.bundle), "reloads": options.reloads, "calls per sample": _CALLS},
        "seconds from publishing to being served": {
            "median": statistics.median(seconds),
            "largest": max(seconds),
        },
        "after the first hundred": verdict,
        "samples": samples,
    }
    save_json(options.output, result)
    print(f"{verdict}\nwritten to {options.output}")
    return 0 if verdict["nothing grew"] else 1


def _wait_for(client: DigitClient, version: str, timeout_s: float = 60) -> None:
    give_up = time.monotonic() + timeout_s
    while (model := client.get_model()).version != version:
        if time.monotonic() > give_up:
            raise StartupError(f"version {version} was not served within {timeout_s:g} s: {model.last_load_error}")
        time.sleep(0.005)


def _sample(reloads: int, process: psutil.Process, client: DigitClient, other: DigitClient) -> dict[str, Any]:
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    milliseconds: dict[DigitClient, list[float]] = {client: [], other: []}
    for _ in range(_CALLS):
        for each, times in milliseconds.items():
            started = time.perf_counter()
            each.classify(image)
            times.append((time.perf_counter() - started) * 1000)
    ours, theirs = map(statistics.median, milliseconds.values())
    return {
        "reloads": reloads,
        "resident MB": round(process.memory_info().rss / 1e6, 2),
        "threads": process.num_threads(),
        "open files": process.num_fds(),
        "latency ms, median": round(ours, 3),
        "latency ms, median of the other server": round(theirs, 3),
        "latency, times the other server's": round(ours / theirs, 3),
    }


def _judge(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of the last and the first third of the samples, and whether they are the same."""
    third = max(1, len(samples) // 3)

    def change(name: str) -> tuple[float, float]:
        first, last = ([sample[name] for sample in part] for part in (samples[:third], samples[-third:]))
        return statistics.median(first), statistics.median(last)

    memory, latency = change("resident MB"), change("latency, times the other server's")
    threads, files = change("threads"), change("open files")
    return {
        "resident MB": memory,
        "latency, times the other server's": latency,
        "threads": threads,
        "open files": files,
        "nothing grew": memory[1] - memory[0] <= _MOST_GROWTH_MB
        and latency[1] <= latency[0] * _MOST_SLOWER
        and threads[1] - threads[0] <= _MOST_THREADS
        and files[1] <= files[0],
    }


if __name__ == "__main__":
    sys.exit(main())
