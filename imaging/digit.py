"""What is found in a picture."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class Warning(StrEnum):
    """Why the answer for a picture may be worth little; the values are words of the wire and of `--json`."""

    BLANK = "blank"
    LOW_CONTRAST = "low_contrast"
    SEVERAL_DIGITS = "several_digits"
    UNLIKE_A_DIGIT = "unlike_a_digit"


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where something is, in pixels of the picture as it is seen upright, from its top left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Digit:
    """One digit of a picture.

    Attributes:
        pixels: uint8 [28, 28], white ink on black, as MNIST means them.
        box: What was cut out.
        warnings: What is doubtful about it; empty when nothing is.
    """

    pixels: npt.NDArray[np.uint8]
    box: Box
    warnings: tuple[Warning, ...]
