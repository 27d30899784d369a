"""`python -m serve BUNDLE`: serve a bundle over gRPC until SIGTERM or SIGINT."""

import functools
import os
import sys
from types import ModuleType

from serve import logs
from serve.errors import StartupError
from serve.runtime import run, settle
from serve.settings import parse, to_toml


def main() -> int:
    """Exit status: 0 when every accepted request was answered, 1 when some were not or the server could not start."""
    try:
        command = parse(sys.argv[1:], os.environ, __doc__)
        config = command.serve
        if command.print_config:
            print(to_toml(config), end="")
            return 0
        logs.configure(config.log_format, config.log_level)
        # gRPC's core writes a line for each failed handshake: callers could fill the disk.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        app = _import_app()
        if command.check:
            for line in app.check(config):
                print(line, flush=True)
            return 0
        drained = run(app.run(config, functools.partial(_ready, config.host)))
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


def _ready(host: str, port: int) -> None:
    settle()
    print(f"ready {host}:{port}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
