"""`python -m benchmarks.gpu`: hold every engine that this machine's GPU can run against PyTorch in FP32, and time it.

Each engine gets a process of its own, for TensorRT and its sibling do not share one; the reference, in PyTorch, is
computed in each. What cannot run is listed with the reason: beyond PyTorch nothing has to be installed. Latencies are
of whole calls, from pixels in host memory to probabilities in host memory. Device times lie between two events on the
engine's stream, over many launches in a row: of the network alone with compiled PyTorch, of network and copies with
TensorRT.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bundle import Bundle, BundleError
from bundle.manifest import Gpu, Plan, Profile
from export import gate, half, tolerances
from export.gate import TestSet
from serve.engines import Pixels, Probabilities, products
from serve.engines.gpu import find_gpu
from serve.errors import ServeError
from train import checkpoint, data
from train.conditions import conditions
from train.errors import TrainError
from train.models import Recogniser
from train.storage import save_json

SIZES = (1, 8, 32, 128, 256)

_DEVICE = "cuda"

_WARM_UP_S = 0.5
_MEASURE_S = 1.0
_FEWEST_CALLS = 100
_MOST_CALLS = 5000
_MISSING = 3  # exit status of an engine that cannot run here
_PATIENCE_S = 1800


class Absent(Exception):
    """An engine cannot run here; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """An opened engine.

    Attributes:
        run: One call of it.
        version: What it is, exactly.
        device_seconds: How long a batch of this size takes on the device, where that can be told.
        graphs: Batch sizes that are replayed as a CUDA graph; None where the library does not say.
    """

    run: gate.Run
    version: str
    device_seconds: Callable[[int], float | None] = lambda size: None
    graphs: list[int] | None = None


@contextmanager
def torch_fp32(folder: Path) -> Iterator[Candidate]:
    """The reference: PyTorch, operation by operation, in FP32."""
    yield _in_torch(_recogniser(folder))


@contextmanager
def torch_fp16(folder: Path) -> Iterator[Candidate]:
    """PyTorch, operation by operation."""
    yield _in_torch(half.halve(_recogniser(folder)))


@contextmanager
def torch_fp16_compiled(folder: Path) -> Iterator[Candidate]:
    """PyTorch, compiled for each batch size and replayed as a CUDA graph."""
    yield _in_torch(half.halve(_recogniser(folder)), compiled=True)


@contextmanager
def onnxruntime_cuda(folder: Path) -> Iterator[Candidate]:
    """ONNX Runtime's CUDA provider, with CUDA graphs."""
    _require("onnxruntime", "pip install '.[gpu]'")
    from serve.engines.onnx_runtime import HALF_GRAPH, has_cuda, open_onnx_runtime_cuda

    if not has_cuda():
        raise Absent("the installed onnxruntime has no CUDA provider; pip install '.[gpu]' brings the one that has")
    with open_onnx_runtime_cuda(Bundle.open(folder).read(HALF_GRAPH), largest_batch=max(SIZES)) as engine:
        yield Candidate(engine.run, f"onnxruntime {importlib.metadata.version('onnxruntime-gpu')}")


@contextmanager
def tensorrt(folder: Path) -> Iterator[Candidate]:
    """TensorRT, with CUDA graphs."""
    with _open_plan(products.TENSORRT, folder) as candidate:
        yield candidate


@contextmanager
def tensorrt_rtx(folder: Path) -> Iterator[Candidate]:
    """TensorRT for RTX, with CUDA graphs."""
    with _open_plan(products.TENSORRT_RTX, folder) as candidate:
        yield candidate


ENGINES = {
    engine.__name__: engine
    for engine in (torch_fp32, torch_fp16, torch_fp16_compiled, onnxruntime_cuda, tensorrt, tensorrt_rtx)
}


def _require(module: str, install: str) -> None:
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise Absent(f"{module} cannot be loaded ({error}); {install}") from error


def _recogniser(folder: Path) -> Recogniser:
    return checkpoint.load(folder.with_suffix(".pt")).recogniser()


def _in_torch(recogniser: Recogniser, *, compiled: bool = False) -> Candidate:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # FP32 means FP32
    torch.backends.cudnn.benchmark = True
    network: Callable[[torch.Tensor], torch.Tensor] = recogniser.to(memory_format=torch.channels_last).to(_DEVICE)
    if compiled:
        network = torch.compile(network, mode="max-autotune", dynamic=False)

    def run(pixels: Pixels) -> Probabilities:
        # Padded to the sizes that are timed, as every engine is: a compiled network is compiled once for each.
        size = next(size for size in SIZES if size >= len(pixels))
        padded = np.zeros((size, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        with torch.inference_mode():
            answers: Probabilities = network(torch.from_numpy(padded).to(_DEVICE)).cpu().numpy()
        return answers[: len(pixels)]

    version = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    # Launched one by one, small batches leave the device waiting for the host between two operations.
    return Candidate(run, version, (lambda size: _time_in_torch(network, size)) if compiled else lambda size: None)


def _time_in_torch(network: Callable[[torch.Tensor], torch.Tensor], size: int, calls: int = 50) -> float:
    """Seconds on the device for each of several calls in a row."""
    pixels = torch.zeros((size, 1, 28, 28), dtype=torch.uint8, device=_DEVICE)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        for _ in range(10):
            network(pixels)
        start.record()
        for _ in range(calls):
            network(pixels)
        end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000 / calls


@contextmanager
def _open_plan(product: products.Product, folder: Path) -> Iterator[Candidate]:
    _require(product.module, product.install)
    _require("cuda.core", "pip install '.[gpu]'")
    products.choose(product)
    from export.plan import BuildOptions, build, version
    from serve.engines.onnx_runtime import HALF_GRAPH
    from serve.engines.tensorrt import TensorRtEngine, open_tensorrt

    bundle, gpu = Bundle.open(folder), find_gpu()
    profiles = [Profile(min=1, opt=32, max=max(SIZES))]
    built = build(bundle.read(HALF_GRAPH), "fp16", BuildOptions(profiles=profiles))
    plan = Plan(
        product=product.name,
        version=version(),
        gpu=gpu if isinstance(gpu, Gpu) else None,
        precision="fp16",
        graph_sha256=bundle.manifest.files[HALF_GRAPH].sha256,
        profiles=profiles,
        options={},
        audit=built.audit.to_json(),
        build_seconds=built.seconds,
        parity=None,
    )
    with open_tensorrt(built.content, plan) as engine:
        assert isinstance(engine, TensorRtEngine)
        yield Candidate(engine.run, f"{product.name} {version()}", engine.device_seconds, engine.recorded)


def measure(name: str, folder: Path, data_root: Path | None) -> dict[str, Any]:
    """Opens one engine, sends it through the gate, and times it; plain data.

    Raises:
        Absent: It cannot run here.
    """
    test = _test_set(folder, data_root)
    precision = "fp32" if name == torch_fp32.__name__ else "fp16"
    with ExitStack() as stack:
        candidate = stack.enter_context(ENGINES[name](folder))
        bounds = tolerances.DEFAULTS[precision]
        check = gate.check_engine(name, test, candidate.run, bounds, SIZES, each=True)
        return {
            "version": candidate.version,
            "cuda_graphs": candidate.graphs,
            "parity": dataclasses.asdict(check),
            "passed": check.passed,
            "batches": {str(size): _time(candidate, test.pixels[:size]) for size in SIZES},
        }


def _test_set(folder: Path, data_root: Path | None) -> TestSet:
    reference = checkpoint.load(folder.with_suffix(".pt"))
    candidate = _in_torch(reference.recogniser())
    dataset = data.load(reference.data["name"], data_root)
    return TestSet.of(dataset, "torch fp32", lambda pixels: gate.in_batches(candidate.run, pixels, [max(SIZES)]))


def _time(candidate: Candidate, pixels: Pixels) -> dict[str, Any]:
    """Latency percentiles of whole calls, after a warm-up, and the time on the device."""
    end = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < end:
        candidate.run(pixels)
    seconds: list[float] = []
    end = time.perf_counter() + _MEASURE_S
    while (len(seconds) < _FEWEST_CALLS or time.perf_counter() < end) and len(seconds) < _MOST_CALLS:
        started = time.perf_counter()
        candidate.run(pixels)
        seconds.append(time.perf_counter() - started)
    device = candidate.device_seconds(len(pixels))
    return {
        "calls": len(seconds),
        "microseconds": {f"p{q}": round(1e6 * float(np.percentile(seconds, q)), 1) for q in (50, 90, 99)},
        "images_per_second": round(len(pixels) / float(np.median(seconds)), 1),
        "device_microseconds": None if device is None else round(1e6 * device, 1),
    }


def _in_a_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one engine in a process of its own; what it says when it cannot is the result, too."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"  # a file, for libraries print what they like
        command = [sys.executable, "-m", "benchmarks.gpu", "--only", name, "--write", str(result)]
        command += ["--bundle", str(arguments.bundle)]
        command += ["--data-root", str(arguments.data_root)] if arguments.data_root else []
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return {"failed": f"no result within {_PATIENCE_S} s"}
        if done.returncode == 0:
            measured: dict[str, Any] = json.loads(result.read_text())
            return measured
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        return {"absent" if done.returncode == _MISSING else "failed": last.removeprefix("error: ")}


def _line(name: str, result: dict[str, Any]) -> str:
    if reason := result.get("absent") or result.get("failed"):
        return f"{name:20} {'absent' if 'absent' in result else 'FAILED'}: {reason}"
    found = result["parity"]["comparison"]
    times = ", ".join(f"{size}: {batch['microseconds']['p50']:,.0f}" for size, batch in result["batches"].items())
    return (
        f"{name:20} {'passed ' if result['passed'] else 'REFUSED'} {len(found['flips'])} digits changed, difference up "
        f"to {found['max_difference']:.2g}; median µs by batch {times}"
    )


def _driver() -> str | None:
    gpu = find_gpu()
    return gpu.driver if isinstance(gpu, Gpu) else None


def check_gpu(arguments: argparse.Namespace) -> bool:
    """Measures every engine and writes what came of it; returns whether all that ran passed the gate."""
    name = torch.cuda.get_device_name()
    print(f"{name}, {arguments.bundle}")
    results = {}
    for engine in ENGINES:
        results[engine] = _in_a_process(engine, arguments)
        print(_line(engine, results[engine]), flush=True)
    path = arguments.results / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    document = {
        "gpu": {"name": name, "compute_capability": capability, "cuda": torch.version.cuda, "driver": _driver()},
        "bundle": arguments.bundle.name,
        "engines": results,
        "conditions": conditions(["torch", "numpy"]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, document)
    print(f"written to {path}")
    return all(result.get("passed", "absent" in result) for result in results.values())


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every engine that is installed passed the gate, 1 when one did not, or without a GPU."""
    # argparse, since nothing but PyTorch has to be installed.
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--bundle", type=Path, default=Path("pretrained/champion"), help="with its checkpoint beside it"
    )
    parser.add_argument(
        "--data-root", type=Path, help="folder that holds MNIST/raw; default: $DIGITS_DATA_ROOT, else data"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="where to write gpu-NAME.json")
    parser.add_argument("--only", choices=ENGINES, help="measure this engine, in this process")
    parser.add_argument("--write", type=Path, default=Path("gpu-engine.json"), help="with --only, where to write it")
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("error: PyTorch sees no NVIDIA GPU; run this on a machine that has one", file=sys.stderr)
        return 1
    try:
        if arguments.only:
            save_json(arguments.write, measure(arguments.only, arguments.bundle, arguments.data_root))
            return 0
        return 0 if check_gpu(arguments) else 1
    except Absent as error:
        print(f"error: {error}", file=sys.stderr)
        return _MISSING
    except (TrainError, BundleError, ServeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
