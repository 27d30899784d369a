"""Service level objectives: what counts as good, and the highest rate that keeps most requests so."""

import math
import re
from collections.abc import Generator
from dataclasses import dataclass

# The search ends when the lowest rate that missed the objective is so little above the highest that met it.
PRECISION = 0.05

# Where even these are not what they should be, or still are, nothing is searched any further.
LOWEST_PER_S, HIGHEST_PER_S = 1.0, 1e6

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, kw_only=True)
class Slo:
    """So many of all requests are to be answered within so much time; one that fails is not.

    Attributes:
        name: As it was written.
        share: Of the requests that were due, 0 to 1.
        within_s: Seconds, in the open loop from the moment at which a request was due.
    """

    name: str
    share: float
    within_s: float

    @classmethod
    def parse(cls, text: str) -> "Slo":
        """Such as `p99=5ms`.

        Raises:
            ValueError: It is nothing like that.
        """
        found = re.fullmatch(r"p(\d+(?:\.\d+)?)=(\d+(?:\.\d+)?)(us|ms|s)", text)
        if not found or not 0 < float(found[1]) < 100 or not float(found[2]):
            raise ValueError(f"--slo is {text!r}; a percentile and a time were expected, such as p99=5ms or p99.9=20ms")
        return cls(name=text, share=float(found[1]) / 100, within_s=float(found[2]) * _SECONDS[found[3]])


def search(first_per_s: float) -> Generator[float, bool | None, float | None]:
    """Bisects rates: yields the next one to try, is sent whether it met the objective, returns the highest that did.

    It doubles the first rate until one misses, and then halves the gap. 0 is returned where no rate met it. Where there
    were too few requests to tell (None is sent), lower rates would tell even less: it ends, with None if none met it.
    """
    met, missed = 0.0, math.inf
    rate = first_per_s
    while True:
        is_met = yield rate
        if is_met is None:
            return met or None
        if is_met:
            met = rate
        else:
            missed = rate
        if math.isinf(missed):
            if met >= HIGHEST_PER_S:
                return met
            rate = 2 * met
        elif missed - met <= PRECISION * missed or missed <= LOWEST_PER_S:
            return met
        else:
            rate = (met + missed) / 2
