"""What a result depends on and must be published with."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_LIBRARIES = ("grpcio", "numpy", "onnxruntime", "protobuf", "uvloop")


def conditions() -> dict[str, object]:
    """Machine, versions and revision, as plain data."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "revision": _revision(),
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _revision() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()

    # Results and notes may be changing while they are made; what is measured is the rest.
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!*.md")
    return git("rev-parse", "HEAD") + ("+changes" if changed else "")
