"""Histograms, percentiles and their intervals against what numpy and scipy say."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from scipy import stats

from clients.benchmark.percentiles import PERCENTILES, Histogram, interval, needed, rank


def filled(values_s) -> Histogram:
    histogram = Histogram()
    for value in values_s:
        histogram.record(value)
    return histogram


@pytest.fixture(scope="module")
def latencies_s() -> np.ndarray:
    return np.random.default_rng(0).lognormal(-6, 1, 5000)


@pytest.mark.parametrize("name", PERCENTILES)
@pytest.mark.parametrize("count", [1, 7, 1600, 5000])
def test_a_percentile_is_the_value_that_so_many_do_not_exceed_to_three_digits(latencies_s, name, count):
    # Not numpy's: in floating point 99.9 % of 5,000 is a little more than 4,995.
    expected = np.sort(latencies_s[:count])[math.ceil(Fraction(name[1:]) / 100 * count) - 1]
    assert filled(latencies_s[:count]).at(PERCENTILES[name]) == pytest.approx(expected, rel=1.1e-3)


def test_the_packages_own_percentile_is_one_rank_too_low_where_ours_is_right():
    package = HdrHistogram(1, 1 << 20, 3)
    for value in range(1, 1601):
        package.record_value(value)
    assert rank(1600, PERCENTILES["p99.9"]) == 1599
    # Once this fails the package has been mended.
    assert package.get_value_at_percentile(99.9) == 1598


def test_what_is_out_of_range_is_counted_where_the_package_drops_it():
    histogram = filled([-1.0, 1e9])
    assert histogram.count == 2
    assert histogram.at(1_000_000) == pytest.approx(3600, rel=2e-3)


def test_merging_encoded_histograms_is_recording_everything_in_one(latencies_s):
    merged = Histogram()
    for part in np.array_split(latencies_s, 3):
        merged.add(Histogram(filled(part).encode()))
    whole = filled(latencies_s)
    assert merged.count == whole.count
    for ours, theirs in zip(merged.values_s(), whole.values_s(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_how_many_are_within_a_bound_is_right_to_three_digits(latencies_s):
    histogram = filled(latencies_s)
    for bound in np.quantile(latencies_s, [0.1, 0.5, 0.99]):
        least, most = np.sum(latencies_s <= bound * (1 - 1e-3)), np.sum(latencies_s <= bound * (1 + 1e-3))
        assert least <= histogram.within(bound) <= most
    assert histogram.within(1e-7) == 0
    assert histogram.within(1e3) == len(latencies_s)
    assert Histogram().within(1.0) == 0


@pytest.mark.parametrize("name", PERCENTILES)
@pytest.mark.parametrize("count", [10, 400, 5000, 1_000_000])
def test_an_interval_has_the_ranks_of_the_binomial_distribution(name, count):
    share = PERCENTILES[name] / 1e6
    ranks = interval(count, PERCENTILES[name])
    if count < needed(share):
        assert ranks is None
    if ranks is None:
        return
    low, high = ranks
    number = stats.binom(count, share)
    assert number.cdf(low - 1) <= 0.025 < number.cdf(low)
    assert number.sf(high - 1) <= 0.025 < number.sf(high - 2)


def test_intervals_hold_the_true_percentile_as_often_as_they_say():
    random, truth = np.random.default_rng(1), -math.log(0.01)
    low, high = interval(1000, PERCENTILES["p99"])
    held = 0
    for _ in range(400):
        values = np.sort(random.exponential(size=1000))
        held += values[low - 1] <= truth <= values[high - 1]
    assert held >= 0.92 * 400


def test_a_percentile_that_the_count_does_not_support_has_no_value(latencies_s):
    few, enough = (filled(latencies_s[:count]).distribution() for count in (367, 368))
    assert few.percentiles["p99"].value_ms is None
    assert few.percentiles["p50"].value_ms is not None
    p99 = enough.percentiles["p99"]
    assert p99.low_ms <= p99.value_ms <= p99.high_ms <= enough.max_ms


def test_a_distribution_of_nothing_says_nothing():
    nothing = Histogram().distribution()
    assert (nothing.count, nothing.mean_ms, nothing.max_ms) == (0, None, None)
    assert {each.value_ms for each in nothing.percentiles.values()} == {None}
