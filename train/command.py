"""How a command of this package ends as a program: its exit status, and one line for whatever went wrong."""

import logging
import sys
from collections.abc import Callable

from train.errors import TrainError

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def run(action: Callable[[], object], *, interrupted: str) -> int:
    """Runs a command.

    Args:
        action: What to run, the parsing of its options included.
        interrupted: What Ctrl-C leaves behind, for the message.

    Returns:
        The exit status: 0 when the command succeeded, 1 when it failed, 130 after Ctrl-C.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        action()
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return INTERRUPTED
    return 0
