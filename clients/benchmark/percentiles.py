"""Latency distributions: HdrHistograms, and what may be said of a percentile.

The histograms are HdrHistogram's, in nanoseconds, three significant digits. Percentiles are not asked of the package,
whose `get_value_at_percentile` rounds the rank to the nearest number where a percentile needs the next higher one, and
whose `record_value` drops what is out of range: here ranks are whole numbers, and values are brought into range.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

# By name, in millionths of all requests, so that ranks are exact.
PERCENTILES = {"p50": 500_000, "p90": 900_000, "p95": 950_000, "p99": 990_000, "p99.9": 999_000, "p99.99": 999_900}

CONFIDENCE = 0.95

_LOWEST_NS, _HIGHEST_NS, _DIGITS = 100, 3_600_000_000_000, 3


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """One percentile of a distribution in milliseconds, with its confidence interval.

    The interval runs between two of the values measured, whose ranks the binomial distribution gives: it assumes
    nothing about how latencies are distributed, but that requests are independent of each other. Where they are not, as
    around a stall, the truth is wider.

    Attributes:
        value_ms: None if there are too few values to tell.
        low_ms: Lower end of the interval.
        high_ms: Upper end.
    """

    value_ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A distribution of times.

    Attributes:
        count: Number of values.
        mean_ms: None of none.
        max_ms: None of none.
        percentiles: By name of `PERCENTILES`.
        histogram: All of it, in nanoseconds, as HdrHistogram's own compressed text (V2), which its tools read.
    """

    count: int
    mean_ms: float | None
    max_ms: float | None
    percentiles: dict[str, Percentile]
    histogram: str


class Histogram:
    """Counts of times, in seconds."""

    def __init__(self, encoded: str | None = None) -> None:
        self._hdr = HdrHistogram(_LOWEST_NS, _HIGHEST_NS, _DIGITS)
        if encoded is not None:
            self._hdr.decode_and_add(encoded.encode())

    def record(self, seconds: float) -> None:
        """Count one value."""
        self._hdr.record_value(min(max(round(seconds * 1e9), 0), _HIGHEST_NS))

    def add(self, other: "Histogram") -> None:
        """Add what another one has counted."""
        self._hdr.add(other._hdr)

    def encode(self) -> str:
        """HdrHistogram's compressed text."""
        text: bytes = self._hdr.encode()
        return text.decode()

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self._hdr.get_total_count())

    def values_s(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The values, ascending, and how many there are up to each; a value stands for those within 0.1 % below it."""
        counts = np.array(self._hdr.counts, np.int64)
        (used,) = np.nonzero(counts)
        highest = [self._hdr.get_highest_equivalent_value(self._hdr.get_value_from_index(int(each))) for each in used]
        return np.array(highest, np.float64) / 1e9, np.cumsum(counts[used])

    def at(self, share_ppm: int) -> float | None:
        """The smallest value, in seconds, that so many millionths of all values do not exceed; None of none."""
        values, cumulative = self.values_s()
        if not len(values):
            return None
        return float(values[np.searchsorted(cumulative, rank(self.count, share_ppm))])

    def within(self, seconds: float) -> int:
        """How many values are at most so large, to three digits."""
        values, cumulative = self.values_s()
        position = int(np.searchsorted(values, seconds, side="right"))
        # The value that stands for those around the bound is the upper end of its step.
        if position < len(values) and self._hdr.values_are_equivalent(int(seconds * 1e9), int(values[position] * 1e9)):
            position += 1
        return int(cumulative[position - 1]) if position else 0

    def distribution(self) -> Distribution:
        """What can be said of it."""
        values, cumulative = self.values_s()
        count = self.count
        percentiles = {}
        for name, share_ppm in PERCENTILES.items():
            ranks = interval(count, share_ppm)
            if ranks is None:
                percentiles[name] = Percentile(value_ms=None)
                continue
            value, low, high = (
                float(1e3 * values[np.searchsorted(cumulative, each)]) for each in (rank(count, share_ppm), *ranks)
            )
            percentiles[name] = Percentile(value_ms=value, low_ms=low, high_ms=high)
        steps = np.diff(cumulative, prepend=0)
        return Distribution(
            count=count,
            mean_ms=float(1e3 * np.average(values, weights=steps)) if count else None,
            max_ms=float(1e3 * values[-1]) if count else None,
            percentiles=percentiles,
            histogram=self.encode(),
        )


def rank(count: int, share_ppm: int) -> int:
    """Which of so many ascending values, from 1, is the percentile."""
    return max(1, -(-count * share_ppm // 1_000_000))


def needed(share: float) -> int:
    """How many values a percentile needs, above the median, for its interval to have an upper end."""
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(share))


def interval(count: int, share_ppm: int) -> tuple[int, int] | None:
    """Ranks of the values between which the true percentile lies, with `CONFIDENCE`; None if it may lie beyond all.

    The number of values that do not exceed the true percentile is binomial.
    """
    share, tail = share_ppm / 1e6, (1 - CONFIDENCE) / 2
    if count * share < 1:
        return None
    centre, deviation = count * share, math.sqrt(count * share * (1 - share))
    first = max(0, math.floor(centre - 10 * deviation - 50))
    last = min(count, math.ceil(centre + 10 * deviation + 50))
    k = np.arange(first, last)
    # Ratios of neighbours, for the factorials themselves are too large.
    logarithms = np.cumsum(np.log((count - k) / (k + 1) * share / (1 - share)))
    weights = np.exp(np.concatenate([[0.0], logarithms]) - max(0.0, float(logarithms.max())))
    at_most = np.cumsum(weights) / weights.sum()  # [i]: probability of at most first + i
    below = int(np.searchsorted(at_most, tail, side="right"))  # so many outcomes are too few to be likely
    above = int(np.searchsorted(at_most, 1 - tail, side="left"))
    low, high = first + below, first + above + 1
    return (low, high) if low >= 1 and high <= count else None
