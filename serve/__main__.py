"""`python -m serve BUNDLE`: serve a bundle over gRPC until SIGTERM or SIGINT."""

import asyncio
import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable
from types import ModuleType

from serve import logs
from serve.errors import StartupError
from serve.settings import parse, to_toml

# Engine threads come back to the interpreter lock after every batch; at Python's own 5 ms they would wait for the
# front end's turn to end, longer than most batches take.
_SWITCH_INTERVAL_S = 1e-4

# Calls leave little for the garbage collector; looking less often gives 64-image requests 2 % more throughput.
_GC_THRESHOLD = 20_000


def main() -> int:
    """Exit status: 0 when every accepted request was answered, 1 when some were not or the server could not start."""
    try:
        command = parse(sys.argv[1:], os.environ, __doc__)
        config = command.serve
        if command.print_config:
            print(to_toml(config), end="")
            return 0
        logs.configure(config.log_format, config.log_level)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        _schedule_as_batch()
        # gRPC's core writes a line for each failed handshake: callers could fill the disk.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        app = _import_app()
        if command.check:
            for line in app.check(config):
                print(line, flush=True)
            return 0
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            drained = runner.run(app.run(config, functools.partial(_ready, config.host)))
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if drained else 1


def _import_app() -> ModuleType:
    """The server itself; what it needs comes with an extra that may not be installed."""
    try:
        from serve import app
    except ModuleNotFoundError as error:
        raise StartupError(
            f"{error.name} is not installed; `pip install '.[cpu]'` brings what serving needs"
        ) from error
    return app


def _schedule_as_batch() -> None:
    """Ask Linux to let a running thread finish its turn before one that wakes up gets the core.

    Engine threads and front end share the cores and wake each other thousands of times a second, and each interruption
    costs both sides their caches: this gives 64-image requests 4 % more throughput, single images 8 %.
    """
    if sys.platform == "linux":
        # A sandbox may forbid it; nothing depends on it.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _ready(host: str, port: int) -> None:
    # What start-up made lives as long as the process, and need not be looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    print(f"ready {host}:{port}", flush=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """With uvloop a call costs about a sixth less; where there is none, asyncio's own loop serves as well."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
