"""`python -m benchmarks.export CHECKPOINT …`: how long exports take, what their gates measure, and what INT8 gains.

Each checkpoint is exported as a user does it, by `python -m export.to_trt --int8` in a process of its own. Then the
bundle's FP32 and INT8 graphs are timed in turn, several times, on one thread each; the figures are medians.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from bundle import Bundle
from serve.engines.onnx_runtime import GRAPH, INT8_GRAPH, open_session
from train.conditions import conditions
from train.errors import TrainError
from train.storage import make_folder, save_json

LIBRARIES = ("torch", "onnx", "onnxruntime", "tensorrt-rtx", "numpy")

_BATCH = 32
_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    checkpoints: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="CHECKPOINT ...", help_behavior_hint="(required)"),
    ]
    """Checkpoints of MNIST to export."""

    repeats: Annotated[int, tyro.conf.arg(metavar="N")] = 5
    """How often the graphs are timed."""

    result: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("benchmarks/results/export.json")
    """Where to write."""


def measure(checkpoint: Path, repeats: int) -> dict[str, Any]:
    """Exports one checkpoint and times what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bundle"
        command = [sys.executable, "-m", "export.to_trt", str(checkpoint), "--int8", "--output", str(target)]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        bundle = Bundle.open(target)
        report = json.loads(bundle.read("parity.json"))
        trained = bundle.manifest.checkpoint.trained
        return {
            "architecture": bundle.manifest.architecture,
            "recipe": trained["recipe"],
            "seed": trained["seed"],
            "checkpoint_sha256": bundle.manifest.checkpoint.sha256,
            "seconds": round(seconds, 1),
            "bytes": {name: file.bytes for name, file in bundle.manifest.files.items()},
            "checks": {
                check["name"]: {
                    "images": check["comparison"]["images"],
                    "flips": len(check["comparison"]["flips"]),
                    "max_difference": check["comparison"]["max_difference"],
                    "drop": check["comparison"]["drop"],
                    "candidate_accuracy": check["comparison"]["candidate_accuracy"],
                }
                for check in report["checks"]
                if check["comparison"]
            },
            "unchecked": report["unchecked"],
            "images_per_second": _compare_speed(bundle, repeats),
        }


def _compare_speed(bundle: Bundle, repeats: int) -> dict[str, Any]:
    sessions = {name: open_session(bundle.read(name), threads=1) for name in (GRAPH, INT8_GRAPH)}
    runs = [{name: _throughput(session) for name, session in sessions.items()} for _ in range(repeats)]
    return {
        **{name: round(statistics.median(run[name] for run in runs)) for name in sessions},
        "int8 against fp32": round(statistics.median(run[INT8_GRAPH] / run[GRAPH] for run in runs), 2),
    }


def _throughput(session: Any) -> float:
    pixels = np.random.default_rng(0).integers(0, 256, (_BATCH, 1, 28, 28), dtype=np.uint8)
    session.run(None, {"pixels": pixels})
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        session.run(None, {"pixels": pixels})
        calls += 1
    return calls * _BATCH / (time.perf_counter() - started)


def main() -> int:
    """Exit status: 0 when everything was measured, 1 when nothing was named or an export failed."""
    options = tyro.cli(Options, prog="python -m benchmarks.export", description=__doc__)
    if not options.checkpoints:
        print("error: no checkpoints were named; name at least one", file=sys.stderr)
        return 1
    try:
        make_folder(options.result.parent, "choose another file with --result")
        exports = [measure(checkpoint, options.repeats) for checkpoint in options.checkpoints]
        save_json(options.result, {"exports": exports, "conditions": conditions(LIBRARIES)})
    except subprocess.CalledProcessError as error:
        print(f"error: `{' '.join(error.cmd[1:])}` ended with status {error.returncode}", file=sys.stderr)
        return 1
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {options.result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
