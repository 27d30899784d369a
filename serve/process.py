"""A server in a process of its own, for programs that need one for a while: the demo, the benchmarks, the tests."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve.errors import StartupError

_START_TIMEOUT_S = 60.0

# More than the server's own default grace.
_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A server that accepts requests at `address`."""

    address: str
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid


def server_process(bundle: Path, *flags: str, log: Path) -> AbstractContextManager[ServerProcess]:
    """Run `python -m serve BUNDLE` on a free port.

    Args:
        bundle: The bundle to serve.
        flags: More of the command line's flags.
        log: See `module_process`, as for the errors.
    """
    return module_process("serve", str(bundle), "--port", "0", *flags, log=log)


@contextmanager
def module_process(module: str, *arguments: str, log: Path) -> Iterator[ServerProcess]:
    """Run a server that prints `ready HOST:PORT` and drains on SIGTERM; drained and ended on leaving.

    Args:
        module: What `python -m` runs.
        arguments: Its command line.
        log: File that receives the server's log.

    Raises:
        StartupError: The server did not start, or did not drain; the message has the end of its log.
    """
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    try:
        # One line once the server is ready; end of file if it never gets there.
        give_up = threading.Timer(_START_TIMEOUT_S, process.kill)
        give_up.start()
        words = process.stdout.readline().split()
        give_up.cancel()
        if words[:1] != ["ready"]:
            raise StartupError(f"the server did not start: {_last_line(log)}")
        yield ServerProcess(address=words[1], process=process)
    finally:
        # Does nothing if it has ended by itself.
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        process.stdout.close()
    if status != 0:
        raise StartupError(f"the server ended with status {status} instead of 0: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "its log is empty"
