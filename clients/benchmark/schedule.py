"""When requests are due in the open loop."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

Arrivals = Literal["poisson", "fixed"]

_AT_ONCE = 1024


def due(arrivals: Arrivals, rate_per_s: float, *, share: int, shares: int, seed: int) -> Iterator[float]:
    """Seconds from the start at which one of several processes sends its requests, without end.

    Together they make `rate_per_s`: Poisson processes add up to one, and evenly spaced ones take turns.

    Args:
        arrivals: Whether requests come at random or evenly spaced.
        rate_per_s: Of all processes together.
        share: Number of this process, from 0.
        shares: How many there are.
        seed: Of the random times.
    """
    if arrivals == "fixed":
        number = share
        while True:
            yield number / rate_per_s
            number += shares
    random = np.random.default_rng([seed, share])
    last = 0.0
    while True:
        moments = last + np.cumsum(random.exponential(shares / rate_per_s, _AT_ONCE))
        yield from moments.tolist()
        last = float(moments[-1])
