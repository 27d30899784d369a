"""The server whose latency is known: what is calculated is what its callers wait."""

import numpy as np
import pytest

from benchmarks.agreement import STALLING
from benchmarks.stalling import expected_ms


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_percentiles_are_those_of_callers_who_come_at_any_time(share: float) -> None:
    period_ms, stall_ms, service_ms = STALLING
    phases = np.random.default_rng(0).uniform(0, period_ms, 100_000)
    waits = np.maximum(0, stall_ms - phases) + service_ms
    assert np.quantile(waits, share) == pytest.approx(expected_ms(share, *STALLING), abs=0.5)
