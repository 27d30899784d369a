"""`python -m train RECIPE [options]`: trains a digit recogniser."""

import sys

from train.command import INTERRUPTED


def main() -> int:
    """Exit status: 0, 1 or 2 after a message, or 130 when interrupted."""
    try:
        # PyTorch takes seconds to import, in which Ctrl-C is as likely as later.
        from train import cli
    except KeyboardInterrupt:
        print("interrupted: nothing was begun", file=sys.stderr)
        return INTERRUPTED
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
