"""What is expensive is made once per run: a trained checkpoint and the bundle exported from it."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What starts the tests in the background may have them ignore Ctrl-C, which the programs they start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def run_module(module: str, *arguments: object, timeout_s: float = 110) -> str:
    """Run `python -m MODULE` from the repository as a user does; returns its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        # Threads that wait for each other by spinning take minutes where tests run side by side.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"python -m {module} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a test that fails, show the ends of the logs that its servers have left in its folder."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for log in folder.rglob("*log"):
            if log.is_file():
                report.sections.append((f"end of {log.name}", log.read_text(errors="replace")[-3000:]))
    return report


@pytest.fixture(scope="session")
def checkpoint(trained: Path) -> Path:
    """`trained`; tests of training have another `checkpoint` of their own."""
    return trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`best.pt` of `compact`, trained for a few epochs on the digits that need no download."""
    runs = tmp_path_factory.mktemp("runs")
    run_module("train", "compact", "--data", "digits8x8", "--epochs", 4, "--batch-size", 64, "--runs", runs)
    return runs / "compact" / "best.pt"


@pytest.fixture(scope="session")
def bundle(checkpoint: Path) -> Path:
    """The bundle exported from `checkpoint`. Tests that change it work on a copy."""
    run_module("export.to_onnx", checkpoint)
    return checkpoint.parent / "bundle"
