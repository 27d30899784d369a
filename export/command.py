"""How an export ends as a program: its exit status, and one line for whatever went wrong."""

import sys
from collections.abc import Callable

from bundle import BundleError
from export.errors import ExportError
from serve.errors import ServeError
from train.errors import TrainError

_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def run(export: Callable[[], object], *, interrupted: str) -> int:
    """Run an export.

    Args:
        export: What to run.
        interrupted: What Ctrl-C leaves undone, for the message.

    Returns:
        The exit status: 0 when the export succeeded, 1 when it failed, 130 after Ctrl-C.
    """
    try:
        export()
    except (ExportError, TrainError, BundleError, ServeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return _INTERRUPTED
    return 0
