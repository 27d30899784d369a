"""The README's commands are run as they stand, in its order, in a folder that looks like a fresh clone."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.report import update

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line[:2] == "$ "]
# They build the environment that this test runs in, and run this test.
SET_UP = ("git clone", "cd ", "make ", ". .venv")


def test_the_two_set_up_commands_come_first_and_exist() -> None:
    makes = [command for command in COMMANDS if command.startswith("make ")]
    assert makes[:2] == ["make demo", "make test"]
    for command in makes:
        assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


@pytest.mark.timeout(900)  # on a slow machine, too
def test_every_command_of_the_readme_works_as_it_stands(tmp_path: Path) -> None:
    """Except: the port is a free one; where MNIST is not at hand, and to explore, the small digits take its place."""
    for entry in ROOT.iterdir():
        if entry.name not in ("runs", "data") and not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    commands = [command for command in COMMANDS if not command.startswith(SET_UP)]
    assert len(commands) >= 6, "the README has lost its commands"
    port = free_port()
    with ExitStack() as servers:
        for command in commands:
            words = adapt(command, port)
            if words[-1] == "&":
                servers.enter_context(background(words[:-1], tmp_path))
            else:
                run(words, tmp_path)
        for kind, text in BLOCKS:
            if kind == "python":
                run([sys.executable, "-c", text.replace("8001", str(port))], tmp_path)


def adapt(command: str, port: int) -> list[str]:
    words = shlex.split(command.replace("8001", str(port)))
    assert words[0] == "python", f"{command!r}: only `python` and `make` are run"
    words[0] = sys.executable
    if words[2] == "serve" and "--help" not in words:
        words[4:4] = ["--port", str(port)]
    if words[2] == "clients.web":
        words[3:3] = ["--port", "0"]
    if words[2] in ("clients.classify", "clients.benchmark", "clients.web"):
        words[3:3] = ["--address", f"127.0.0.1:{port}"]
    # MNIST's 70,000 images are compared with each other for a minute and more: the small digits show as much.
    if words[2] == "train.explore" or (words[2] == "train" and "DIGITS_DATA_ROOT" not in os.environ):
        words += ["--data", "digits8x8"]
        # So few images are only learnt from in small batches, and a network that guesses differs in FP16.
        words += ["--batch-size", "64"] if words[2] == "train" else []
    return words


def run(words: list[str], folder: Path) -> None:
    done = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"


@contextmanager
def background(words: list[str], folder: Path) -> Iterator[None]:
    with subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_tables_say_what_the_committed_results_say() -> None:
    assert update(README) == README, "run `python -m benchmarks.report`"
