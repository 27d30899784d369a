"""`make bench`: what the server can do, against what is possible on the same cores.

All servers are started once, and those that are not being measured are idle. Each repeat measures everything, one after
the other: the figures are medians over the repeats, and ratios are formed within a repeat, of what was measured side by
side, because the speed of a machine drifts. The load comes from processes of their own that share the cores with the
server: h2load, and `benchmarks.openloop` where requests come when they like.
"""

import dataclasses
import functools
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import grpc
import numpy as np
import psutil
import tyro
from onnxruntime import InferenceSession

from benchmarks import h2load, openloop
from benchmarks.h2load import Load
from benchmarks.http2 import CLASSIFY
from benchmarks.measurement import Measurement
from bundle import Bundle, BundleError
from clients import DigitClient
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.engines.onnx_runtime import GRAPH, open_session
from serve.errors import StartupError
from serve.process import ServerProcess, module_process, server_process
from train.conditions import conditions, cores
from train.errors import TrainError
from train.storage import make_folder, save_json

STREAM = "/digits.v1.DigitRecognizer/ClassifyStream"
LIBRARIES = ("grpcio", "numpy", "onnxruntime", "protobuf", "uvloop")

COMPACT, LENET_BN, LENET_BN_INT8 = "compact", "lenet_bn", "lenet_bn in INT8"
NETWORKS = (COMPACT, LENET_BN, LENET_BN_INT8)

MANY = 64
ONE_CALLER = Load(connections=1, streams=1)
CALLERS = Load(connections=8, streams=8)
MANY_CALLERS = Load(connections=8, streams=1)
STREAMS = Load(connections=4, streams=1)
STREAM_MESSAGES = 500

# Network and images a request. Single images of the small network keep the front end busy, the others the engines.
OPEN_LOOP = ((COMPACT, 1), (COMPACT, 16), (LENET_BN, 1))
# Of what 64 callers get in a closed loop.
STEADY_LOAD, OVERLOAD = 0.7, 2.0
DEADLINE_MS = 20.0
# So many calls may be pending as are answered in this time.
PENDING_S = 0.4 * DEADLINE_MS / 1e3

FEW_IMAGES, MANY_IMAGES = 10_000, 1_000_000

ONE_PROCESS = "one process"
CONFIGURATIONS = {
    ONE_PROCESS: (),
    "one process, one slot": ("--slots", "1"),
    "one front end, one slot": ("--frontends", "1", "--slots", "1"),
    "two front ends, one slot": ("--frontends", "2", "--slots", "1"),
}

Results: TypeAlias = dict[str, "float | Measurement"]
"""What one scenario tells: figures, and the measurements that they were taken from, by name with unit."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    compact: Path = Path("pretrained/compact")
    """Bundle of the small network."""

    lenet_bn: Path = Path("runs/bench/lenet_bn/bundle")
    """Bundle of the large network, with its INT8 graph. Made if it is not there, of a network trained for a minute on
    the small digits: how fast it is does not depend on how right it is."""

    output: Path = Path("benchmarks/results/serving.json")
    """Where the result is written."""

    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 3
    """How often everything is measured."""

    duration_s: int = 3
    """Seconds of each measurement."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network in one precision.

    Attributes:
        name: With the precision.
        bundle: Where it is.
        engine: What computes it.
    """

    name: str
    bundle: Path
    engine: str


def main() -> int:
    """Exit status: 0 when everything was measured, 1 when something for it is missing."""
    options = tyro.cli(Options, prog="python -m benchmarks.serving", description=__doc__)
    try:
        make_folder(options.output.parent, "choose another file with --output")
        result = run(options)
        save_json(options.output, result)
    except (BundleError, StartupError, RuntimeError, TrainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in result["medians"].items():
        print(f"{name:80} {value:12,.2f}")
    print(f"written to {options.output}")
    return 0


def run(options: Options) -> dict[str, Any]:
    """Measure everything; see the top of this file.

    Raises:
        RuntimeError: A load generator failed.
        StartupError: A server did not start.
        BundleError: There is nothing to serve.
    """
    networks = find_networks(options)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = (Path(folder, str(number)) for number in itertools.count())
        servers = {
            network.name: {
                name: stack.enter_context(
                    server_process(network.bundle, "--engine", network.engine, *flags, log=next(logs))
                )
                for name, flags in CONFIGURATIONS.items()
            }
            for network in networks
        }
        echo = stack.enter_context(
            module_process("benchmarks.echo", _reply(servers[COMPACT][ONE_PROCESS], 1).hex(), log=next(logs))
        )
        repeats = []
        for number in range(1, options.repeats + 1):
            print(f"repeat {number} of {options.repeats} …", flush=True)
            repeats.append(_repeat(options, networks, servers, echo, logs))
        models = {name: _model(configured[ONE_PROCESS]) for name, configured in servers.items()}
    return {
        "conditions": conditions(LIBRARIES),
        "options": {"repeats": options.repeats, "duration_s": options.duration_s},
        "models": models,
        "medians": medians(repeats),
        "repeats": [{name: _plain(value) for name, value in results.items()} for results in repeats],
    }


def find_networks(options: Options) -> list[Network]:
    """What is served; made if it is not there."""
    if not options.lenet_bn.exists():
        checkpoint = options.lenet_bn.parent / "best.pt"
        training = ["--data", "digits8x8", "--epochs", "4", "--name", checkpoint.parent.name, "--overwrite"]
        _run("train", "lenet_bn", *training, "--runs", str(checkpoint.parent.parent))
        _run("export.to_onnx", str(checkpoint), "--int8", "--output", str(options.lenet_bn))
    return [
        Network(name=COMPACT, bundle=options.compact, engine="onnxruntime"),
        Network(name=LENET_BN, bundle=options.lenet_bn, engine="onnxruntime"),
        Network(name=LENET_BN_INT8, bundle=options.lenet_bn, engine="onnxruntime-int8"),
    ]


def _run(module: str, *arguments: str) -> None:
    words = ["-m", module, *arguments]
    print(f"$ python {' '.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, *words], check=False).returncode:
        raise RuntimeError(f"{module} ended with status {status}")


def _repeat(
    options: Options,
    networks: Sequence[Network],
    servers: dict[str, dict[str, ServerProcess]],
    echo: ServerProcess,
    logs: Iterator[Path],
) -> Results:
    compact, duration_s = servers[COMPACT][ONE_PROCESS], options.duration_s
    results = one_caller(compact, duration_s)
    results |= callers(compact, echo, duration_s)
    results |= many_images(compact, Bundle.open(options.compact).read(GRAPH), duration_s)
    for network, configured in servers.items():
        results |= configurations(network, configured, duration_s)
    named = {network.name: network for network in networks}
    for name, images in OPEN_LOOP:
        results |= open_loop(named[name], images, servers[name][ONE_PROCESS], duration_s, next(logs))
    return results | memory(options.compact, next(logs))


def one_caller(server: ServerProcess, duration_s: int) -> Results:
    """Nothing but the way there and back."""
    seen = _closed(server, ONE_CALLER, duration_s=duration_s)
    return {"1 caller": seen, "1 caller, p50 ms": seen.latency_ms["p50"]}


def callers(server: ServerProcess, echo: ServerProcess, duration_s: int) -> Results:
    """Single images by call and by stream, between two measurements of a server that does nothing."""
    before = _closed(echo, CALLERS, duration_s=duration_s)
    unary = _closed(server, CALLERS, duration_s=duration_s)
    stream = _stream(server, duration_s)
    after = _closed(echo, CALLERS, duration_s=duration_s)
    echoed = (before.answered_per_s + after.answered_per_s) / 2
    return {
        "echo server, before": before,
        "echo server, after": after,
        "64 callers": unary,
        "4 streams": stream,
        "64 callers, echo server, requests/s": echoed,
        "64 callers, requests/s": unary.answered_per_s,
        "64 callers, share of the echo server": unary.answered_per_s / echoed,
        "4 streams, messages/s": stream.answered_per_s,
        "4 streams, times 64 callers": stream.answered_per_s / unary.answered_per_s,
    }


def many_images(server: ServerProcess, graph: bytes, duration_s: int) -> Results:
    """Requests of many images, between two measurements of the engine alone."""
    before = _alone(graph)
    seen = _closed(server, MANY_CALLERS, images=MANY, duration_s=duration_s)
    after = _alone(graph)
    results: Results = {
        f"{MANY}-image requests": seen,
        f"{MANY}-image requests, images/s": seen.answered_per_s * MANY,
    }
    for name in before:
        alone = (before[name] + after[name]) / 2
        results[f"ONNX Runtime alone, {name}, images/s"] = alone
        results[f"{MANY}-image requests, share of {name}"] = seen.answered_per_s * MANY / alone
    return results


def configurations(network: str, servers: dict[str, ServerProcess], duration_s: int) -> Results:
    """64 callers of one network, in each of the ways in which it can be served."""
    seen = {name: _closed(server, CALLERS, duration_s=duration_s) for name, server in servers.items()}
    return {f"{network}, {name}": each for name, each in seen.items()} | {
        f"{network}, {name}, requests/s": each.answered_per_s for name, each in seen.items()
    }


def open_loop(network: Network, images: int, server: ServerProcess, duration_s: int, log: Path) -> Results:
    """Requests that come when they like: fewer than the server can answer, then more.

    More once again for a server that is told to keep few of them.
    """
    capacity = _closed(server, CALLERS, images=images, duration_s=duration_s).answered_per_s
    steady = openloop.measure(server.address, rate_per_s=STEADY_LOAD * capacity, images=images, duration_s=duration_s)
    flood = functools.partial(
        openloop.measure,
        rate_per_s=OVERLOAD * capacity,
        images=images,
        duration_s=duration_s,
        deadline_ms=DEADLINE_MS,
    )
    over = flood(server.address)
    pending = max(1, round(PENDING_S * capacity))
    flags = ("--engine", network.engine, "--max-pending-calls", str(pending))
    with server_process(network.bundle, *flags, log=log) as strict:
        _closed(strict, ONE_CALLER, images=images, duration_s=1)  # it learns how long its engine takes
        few = flood(strict.address)
    if not steady.answered:
        raise RuntimeError(f"{network.name}: no request was answered at {STEADY_LOAD:.0%} of capacity: {steady.failed}")
    call_ms = steady.figures["ms of the average engine call"]
    name = f"{network.name}, {images} a request"
    return {
        f"{name}, Poisson": steady,
        f"{name}, overload": over,
        f"{name}, overload, few pending": few,
        f"{name}, capacity, requests/s": capacity,
        f"{name}, Poisson, p50 ms": steady.latency_ms["p50"],
        f"{name}, Poisson, p99 ms": steady.latency_ms["p99"],
        f"{name}, Poisson, failed": float(sum(steady.failed.values())),
        f"{name}, Poisson, ms of the average engine call": call_ms,
        f"{name}, Poisson, images of the average engine call": steady.figures["images of the average engine call"],
        f"{name}, Poisson, p99 in engine calls": steady.latency_ms["p99"] / call_ms,
        f"{name}, overload, share of capacity": over.answered_per_s / capacity,
        f"{name}, overload, few pending, calls": float(pending),
        f"{name}, overload, few pending, share of capacity": few.answered_per_s / capacity,
    }


def memory(bundle: Path, log: Path) -> Results:
    """A new server's resident set, early and late in its life."""
    with server_process(bundle, log=log) as server:
        _closed(server, MANY_CALLERS, images=MANY, requests=FEW_IMAGES // MANY)
        early = _resident_mb(server)
        _closed(server, MANY_CALLERS, images=MANY, requests=(MANY_IMAGES - FEW_IMAGES) // MANY)
        late = _resident_mb(server)
    return {
        f"resident MB after {FEW_IMAGES:,} images": early,
        f"resident MB after {MANY_IMAGES:,} images": late,
        "resident memory, growth": late / early - 1,
    }


def medians(repeats: Sequence[Results]) -> dict[str, float]:
    """Each figure's median over the repeats."""
    names = [name for name, value in repeats[0].items() if not isinstance(value, Measurement)]
    return {name: statistics.median(cast(float, results[name]) for results in repeats) for name in names}


def _closed(server: ServerProcess, load: Load, *, images: int = 1, **extent: int) -> Measurement:
    reply = _reply(server, images)
    return h2load.measure(server.address, CLASSIFY, _request(images), len(h2load.frame(reply)), load, **extent)


def _stream(server: ServerProcess, duration_s: int) -> Measurement:
    answer = digits_pb2.ClassifyResponse.FromString(_reply(server, 1))
    reply = h2load.frame(digits_pb2.ClassifyStreamResponse(response=answer).SerializeToString())
    extent = {"messages": STREAM_MESSAGES, "duration_s": duration_s}
    return h2load.measure_stream(server.address, STREAM, _request(1), len(reply), STREAMS, **extent)


def _request(images: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, images * 784, dtype=np.uint8)
    return digits_pb2.ClassifyRequest(pixels=pixels.tobytes()).SerializeToString()


def _reply(server: ServerProcess, images: int) -> bytes:
    """A reply of the size that replies have under load: their times take two bytes each."""
    with grpc.insecure_channel(server.address) as channel:
        classify = digits_pb2_grpc.DigitRecognizerStub(channel).Classify
        reply = classify(digits_pb2.ClassifyRequest.FromString(_request(images)), timeout=10)
    reply.queue_us = reply.compute_us = 1000
    serialised: bytes = reply.SerializeToString()
    return serialised


def _alone(graph: bytes) -> dict[str, float]:
    """Images a second of ONNX Runtime without a server: as it comes, and in the server's own arrangement."""
    return {
        "stock session": _throughput([InferenceSession(graph, providers=["CPUExecutionProvider"])], batch=MANY),
        "session per core": _throughput([open_session(graph, threads=1) for _ in range(cores())], batch=32),
    }


def _throughput(sessions: list[Any], *, batch: int, duration_s: float = 1.0) -> float:
    """Images a second of sessions that run side by side, each on a thread of its own."""
    images = [0] * len(sessions)
    start = threading.Barrier(len(sessions))

    def work(index: int) -> None:
        pixels = np.random.default_rng(index).integers(0, 256, (batch, 1, 28, 28), dtype=np.uint8)
        sessions[index].run(None, {"pixels": pixels})
        start.wait()
        end = time.perf_counter() + duration_s
        while time.perf_counter() < end:
            sessions[index].run(None, {"pixels": pixels})
            images[index] += batch

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(sessions))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(images) / duration_s


def _resident_mb(server: ServerProcess) -> float:
    return float(psutil.Process(server.pid).memory_info().rss) / 1e6


def _model(server: ServerProcess) -> dict[str, Any]:
    with DigitClient(server.address) as client:
        return dataclasses.asdict(client.get_model())


def _plain(value: "float | Measurement") -> object:
    return dataclasses.asdict(value) if isinstance(value, Measurement) else value


if __name__ == "__main__":
    sys.exit(main())
