"""What the load generators report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one load generator saw in the time that it measured.

    Attributes:
        answered: Requests, or messages of streams, that were answered; in time, where they had a deadline.
        answered_per_s: The same for each second.
        latency_ms: Of what was answered, in milliseconds by name of `PERCENTILES`; empty where it was not recorded.
        failed: All other requests, by what became of them.
        figures: What else this generator tells, by name with unit.
    """

    answered: int
    answered_per_s: float
    latency_ms: dict[str, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


def percentiles(values: "Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]") -> dict[str, float]:
    """The `PERCENTILES` of some numbers; none of none."""
    return {name: float(np.percentile(values, q)) for name, q in PERCENTILES.items()} if len(values) else {}
