"""`python -m serve BUNDLE`: serve a bundle over gRPC until SIGTERM or SIGINT."""

import asyncio
import logging
import sys
from collections.abc import Callable

import tyro

from serve.app import run
from serve.config import ServeConfig
from serve.errors import StartupError

# Engine threads come back to the interpreter lock after every batch; at Python's own 5 ms they would wait for the
# front end's turn to end, longer than most batches take.
_SWITCH_INTERVAL_S = 1e-4


def main() -> int:
    """Exit status: 0 when every accepted request was answered, 1 when some were not or the server could not start."""
    try:
        config = tyro.cli(ServeConfig, prog="python -m serve", description=__doc__)
        logging.basicConfig(
            level=config.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            drained = runner.run(run(config, lambda port: print(f"ready {config.host}:{port}", flush=True)))
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if drained else 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """With uvloop a call costs about a sixth less; where there is none, asyncio's own loop serves as well."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
