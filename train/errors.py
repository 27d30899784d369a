"""Everything `train` raises for a reason its user can act on.

    TrainError
    ├── RecipeError         a recipe's value is out of range
    ├── ArchitectureError   no such architecture, or an argument it does not take
    ├── DataError           a data set is missing, damaged or not what was expected
    ├── RunError            the folder or the device of a run cannot be used as asked
    ├── DivergenceError     training left the finite numbers
    ├── CheckpointError     a file is not a checkpoint that can be used here
    └── WriteError          a file could not be written

Each message says what was received, what was expected and what to do about it.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TrainError(Exception):
    """Base of all errors of this package."""


class RecipeError(TrainError):
    """A recipe's value is out of range."""


class ArchitectureError(TrainError):
    """No such architecture, or an argument that it does not take."""


class DataError(TrainError):
    """A data set is missing, damaged or not what was expected."""


class RunError(TrainError):
    """The folder or the device of a run cannot be used as asked."""


class DivergenceError(TrainError):
    """Training left the finite numbers."""


class CheckpointError(TrainError):
    """A file is not a checkpoint that can be used here."""


class WriteError(TrainError):
    """A file could not be written."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns the message for a name that is not among `known`, naming the nearest one that is."""
    names = sorted(known)
    if not names:
        return f"unknown {kind} {name!r}: there are none"
    nearest = get_close_matches(name, names, n=1, cutoff=0.0)[0]
    return f"unknown {kind} {name!r}: did you mean {nearest!r}? Known: {', '.join(names)}"
