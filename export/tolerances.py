"""What the gate lets pass: the defaults for each precision, and a file that changes them.

[fp16]
max_difference = 0.02
"""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import OptionError
from train.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What may differ.

    Attributes:
        max_difference: Largest difference of any probability.
        max_accuracy_drop: Accuracy lost against the reference, as a share of the images compared; see `accuracy_drop`.
        max_flip_margin: An image may change its digit only where the reference's best probability leads its second
            best by no more than this: there the reference itself was undecided.
        max_batch_difference: Largest difference between two answers to one image in different company: at another
            place of a batch, or in a batch of another size.
        min_headroom: FP16's largest number as a multiple of the largest activation, at least; from 1.
    """

    max_difference: float
    max_accuracy_drop: float = 5e-4
    max_flip_margin: float
    max_batch_difference: float
    min_headroom: float = 4.0

    def accuracy_drop(self, images: int) -> float:
        """The share of so many images that may be lost: `max_accuracy_drop`, rounded up to whole images.

        Of few images it is less than one of them, which is no evidence where the reference was undecided.
        """
        return math.ceil(round(self.max_accuracy_drop * images, 6)) / images


# FP16 has eleven bits: a relative error of 5e-4 in each of some ten layers. INT8 has eight for the whole range of a
# layer's values: probabilities move where the network hesitates, and nearly nowhere else.
DEFAULTS = {
    "fp32": Tolerances(max_difference=1e-3, max_flip_margin=1e-3, max_batch_difference=1e-4),
    "fp16": Tolerances(max_difference=1e-2, max_flip_margin=1e-2, max_batch_difference=5e-3),
    "int8": Tolerances(max_difference=0.25, max_flip_margin=0.25, max_batch_difference=1e-4),
}


def load(path: Path | None) -> dict[str, Tolerances]:
    """Reads a file of tolerances; what it does not name keeps its default.

    Raises:
        OptionError: The file cannot be read, or names or holds what it must not.
    """
    if path is None:
        return DEFAULTS
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"--tolerances {path}: {error.strerror}; a TOML file was expected") from error
    except ValueError as error:
        raise OptionError(f"--tolerances {path} is not TOML: {error}") from error
    for precision in document:
        if precision not in DEFAULTS:
            raise OptionError(f"--tolerances {path}: {unknown_name('precision', precision, DEFAULTS)}")
    return {
        precision: _change(default, document.get(precision, {}), f"--tolerances {path}: [{precision}]")
        for precision, default in DEFAULTS.items()
    }


def _change(default: Tolerances, changes: Any, where: str) -> Tolerances:
    names = [field.name for field in dataclasses.fields(Tolerances)]
    if not isinstance(changes, dict):
        raise OptionError(f"{where} is {changes!r}; a table of {', '.join(names)} was expected")
    for name, value in changes.items():
        if name not in names:
            raise OptionError(f"{where} {unknown_name('tolerance', name, names)}")
        lowest = 1 if name == "min_headroom" else 0
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value < math.inf:
            raise OptionError(f"{where} {name} is {value!r}; a number from {lowest} was expected")
    return dataclasses.replace(default, **changes)
