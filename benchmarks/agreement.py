"""`python -m benchmarks.agreement`: does the benchmark's open loop measure what MLPerf's LoadGen measures?

Both send Poisson arrivals at the same rate to the same server, in turns, and count latency from the moment for which a
request was planned. Both send over grpc.aio from one process, so that what remains is how arrivals are scheduled and
times taken. Percentiles are medians over the repeats, and the ratio is that of the medians.

There are two servers: the project's own, and one that stalls, whose percentiles can be calculated. On a machine that is
busy with other things the first tells more of these than of the two programs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.stalling import expected_ms
from serve.errors import StartupError
from serve.process import ServerProcess, module_process, server_process
from train.conditions import conditions
from train.errors import TrainError
from train.storage import make_folder, save_json

LIBRARIES = ("grpcio", "mlcommons_loadgen", "numpy", "onnxruntime")

# By our name and by LoadGen's.
PERCENTILES = {"p50": "50.00", "p90": "90.00", "p95": "95.00", "p99": "99.00"}

WITHIN = 0.1

# Period, stall and service in milliseconds; more than half of all requests wait.
STALLING = (100.0, 60.0, 5.0)
STALLING_RATE_PER_S = 400.0

# In a measurement, on average: of fewer than 368 the benchmark tells no p99.
_FEWEST_REQUESTS = 500


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Path = Path("pretrained/champion")
    """What is served. A large network, beside whose time the generators' own is small."""

    images: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Images in each request: LoadGen hands requests from thread to thread, beside which they should take long."""

    rate_per_s: float = 60.0
    """Requests a second."""

    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """How often both measure."""

    duration_s: float = 10.0
    """Seconds of each measurement."""

    output: Path = Path("benchmarks/results/agreement.json")
    """Where the result is written."""

    def __post_init__(self) -> None:
        requests = min(self.rate_per_s, STALLING_RATE_PER_S) * self.duration_s
        if requests < _FEWEST_REQUESTS:
            raise ValueError(
                f"--duration-s is {self.duration_s:g}, in which {requests:.0f} requests are due to one of the servers; "
                f"at least {_FEWEST_REQUESTS} were expected, of which a p99 can be told"
            )


def main() -> int:
    """Exit status: 0 when they agree within 10 % on both servers, 1 when not, or when one could not be measured."""
    options = tyro.cli(Options, prog="python -m benchmarks.agreement", description=__doc__)
    try:
        make_folder(options.output.parent, "choose another file with --output")
        result = run(options)
        save_json(options.output, result)
    except (StartupError, RuntimeError, TrainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for server, found in result["servers"].items():
        print(
            f"{server:10}  benchmark ms  LoadGen ms  ratio  {'within' if found['agree'] else 'NOT within'} {WITHIN:.0%}"
        )
        for name, each in found["percentiles"].items():
            known = f"  calculated: {each['calculated_ms']:.1f} ms" if "calculated_ms" in each else ""
            print(f"{name:>10}  {each['benchmark_ms']:12.3f}  {each['loadgen_ms']:10.3f}  {each['ratio']:5.2f}{known}")
    print(f"written to {options.output}")
    return 0 if all(found["agree"] for found in result["servers"].values()) else 1


def run(options: Options) -> dict[str, Any]:
    """Measure in turns.

    Raises:
        RuntimeError: A measurement failed.
        StartupError: The server did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        with module_process("benchmarks.stalling", *map(str, STALLING), log=Path(folder, "stalling")) as server:
            # Its median lies where every answer takes another time, so that a few hundred requests say little of it;
            # and it has no work to do.
            crowd = replace(options, rate_per_s=STALLING_RATE_PER_S, images=1)
            stalling = _compare(crowd, "stalling", server, Path(folder))
        with server_process(options.bundle, log=Path(folder, "log")) as server:
            own = _compare(options, options.bundle.name, server, Path(folder))
    for name, percentile in stalling["percentiles"].items():
        percentile["calculated_ms"] = expected_ms(float(name[1:]) / 100, *STALLING)
    return {
        "conditions": conditions(LIBRARIES),
        "options": {name: value for name, value in asdict(options).items() if name not in ("bundle", "output")},
        "servers": {"stalling": stalling, options.bundle.name: own},
    }


def _compare(options: Options, name: str, server: ServerProcess, folder: Path) -> dict[str, Any]:
    repeats = []
    for number in range(1, options.repeats + 1):
        print(f"{name}, repeat {number} of {options.repeats} …", flush=True)
        ours = _benchmark(options, server.address, number, folder / "benchmark.json")
        repeats.append({"benchmark_ms": ours, "loadgen_ms": _loadgen(options, server.address, folder / "loadgen.json")})
    percentiles = {}
    for percentile in PERCENTILES:
        medians = {side: statistics.median(each[side][percentile] for each in repeats) for side in repeats[0]}
        percentiles[percentile] = medians | {"ratio": medians["benchmark_ms"] / medians["loadgen_ms"]}
    return {
        "agree": all(abs(each["ratio"] - 1) <= WITHIN for each in percentiles.values()),
        "percentiles": percentiles,
        "repeats": repeats,
    }


def _benchmark(options: Options, address: str, seed: int, file: Path) -> dict[str, float]:
    duration_s = str(options.duration_s)
    words = [*_load(options, address), "--seed", str(seed), "--floor-s", "0"]
    words += ["--duration-s", duration_s, "--max-duration-s", duration_s, "--json", str(file)]
    (level,) = _run([], words, file)["levels"]
    return {name: level["latency"]["percentiles"][name]["value_ms"] for name in PERCENTILES}


def _loadgen(options: Options, address: str, file: Path) -> dict[str, float]:
    words = [*_load(options, address), "--duration-s", str(options.duration_s)]
    # Whether it would be valid as a result is another question.
    figures = _run(["loadgen"], [*words, "--slo-ms", "10000", "--json", str(file)], file)["figures"]
    return {name: figures[f"{theirs} percentile latency (ns)"] / 1e6 for name, theirs in PERCENTILES.items()}


def _load(options: Options, address: str) -> list[str]:
    return ["--address", address, "--rate", str(options.rate_per_s), "--images", str(options.images)]


def _run(command: list[str], words: list[str], file: Path) -> dict[str, Any]:
    file.unlink(missing_ok=True)
    module = [sys.executable, "-m", "clients.benchmark", *command]
    done = subprocess.run([*module, *words], capture_output=True, text=True, check=False)
    if not file.exists():
        raise RuntimeError(f"{' '.join([*module[1:], *words])} ended with {done.returncode}: {done.stderr}")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


if __name__ == "__main__":
    sys.exit(main())
