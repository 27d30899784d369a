"""`make bench`: what one server process can do, against what ONNX Runtime alone can do on the same cores.

Each repeat measures everything once, one after the other; the figures are medians over the repeats. The load comes
from h2load, a process of its own that shares the machine's cores with the server.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import psutil
import tyro
from onnxruntime import InferenceSession

from benchmarks.h2load import Load, Measurement, frame, measure
from bundle import Bundle, BundleError
from clients import DigitClient
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.engines.onnx_runtime import GRAPH, open_session
from serve.errors import StartupError
from serve.process import ServerProcess, server_process
from train.conditions import conditions, cores

METHOD = "/digits.v1.DigitRecognizer/Classify"
MANY = 64
LIBRARIES = ("grpcio", "numpy", "onnxruntime", "protobuf", "uvloop")

SINGLE = {
    "1 caller": Load(connections=1, streams=1),
    "64 callers, 1 connection": Load(connections=1, streams=64),
    "64 callers, 8 connections": Load(connections=8, streams=8),
    "64 callers, 64 connections": Load(connections=64, streams=1),
}
MANY_LOAD = Load(connections=8, streams=1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Path = Path("runs/demo/bundle")
    """What to serve; the default is what `make demo` makes."""

    output: Path = Path("benchmarks/results/serving.json")
    """Where the result is written."""

    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """How often everything is measured."""

    duration_s: int = 4
    """Seconds of each measurement."""


def main() -> int:
    """Exit status: 0 when everything was measured, 1 when something for it is missing."""
    options = tyro.cli(Options, prog="python -m benchmarks.serving", description=__doc__)
    try:
        _run(options)
    except (BundleError, StartupError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: Options) -> None:
    graph = Bundle.open(options.bundle).read(GRAPH)
    with tempfile.TemporaryDirectory() as folder, server_process(options.bundle, log=Path(folder, "log")) as server:
        repeats = []
        for number in range(1, options.repeats + 1):
            print(f"repeat {number} of {options.repeats} …", flush=True)
            repeats.append(_repeat(server, graph, options.duration_s))
        memory_mb = psutil.Process(server.pid).memory_info().rss / 1e6
        with DigitClient(server.address) as client:
            model = dataclasses.asdict(client.get_model())
    medians = _medians(repeats) | {"server resident MB": memory_mb}
    result = {
        "conditions": conditions(LIBRARIES),
        "options": {"repeats": options.repeats, "duration_s": options.duration_s},
        "model": model,
        "medians": medians,
        "repeats": repeats,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in medians.items():
        print(f"{name:58} {value:10,.2f}")
    print(f"written to {options.output}")


def _repeat(server: ServerProcess, graph: bytes, duration_s: int) -> dict[str, Any]:
    single = {name: _served(server, 1, load, duration_s) for name, load in SINGLE.items()}
    # The machine's speed drifts: what is divided is measured side by side, the divisor before and after.
    before = _alone(graph)
    many = _served(server, MANY, MANY_LOAD, duration_s)
    after = _alone(graph)
    alone = {name: (before[name] + after[name]) / 2 for name in before}
    return {
        "1-image requests": {name: dataclasses.asdict(each) for name, each in single.items()},
        f"{MANY}-image requests": dataclasses.asdict(many),
        "onnxruntime alone, images/s": alone,
        "share": {name: many.requests_per_s * MANY / each for name, each in alone.items()},
    }


def _served(server: ServerProcess, images: int, load: Load, duration_s: int) -> Measurement:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype=np.uint8)
    request = digits_pb2.ClassifyRequest(pixels=pixels.tobytes())
    with grpc.insecure_channel(server.address) as channel:
        reply = digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request, timeout=10)
    reply_bytes = len(frame(reply.SerializeToString()))
    return measure(server.address, METHOD, request.SerializeToString(), reply_bytes, load, duration_s=duration_s)


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


def _medians(repeats: list[dict[str, Any]]) -> dict[str, float]:
    def median(*path: str) -> float:
        def follow(repeat: Any) -> float:
            for key in path:
                repeat = repeat[key]
            return float(repeat)

        return statistics.median(map(follow, repeats))

    figures = {"1 caller, p50 ms": median("1-image requests", "1 caller", "latency_ms", "p50")}
    for name in SINGLE:
        figures[f"{name}, requests/s"] = median("1-image requests", name, "requests_per_s")
    figures[f"{MANY}-image requests, images/s"] = MANY * median(f"{MANY}-image requests", "requests_per_s")
    for name in repeats[0]["share"]:
        figures[f"onnxruntime alone, {name}, images/s"] = median("onnxruntime alone, images/s", name)
        figures[f"{MANY}-image requests, share of {name}"] = median("share", name)
    return figures


if __name__ == "__main__":
    sys.exit(main())
