"""What is learnt of an engine's speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.estimate import EngineTime

seconds = st.floats(1e-6, 1)


def test_before_the_first_call_nothing_is_expected():
    assert EngineTime()(100) == 0


@given(seconds, seconds, st.lists(st.integers(1, 256), min_size=2, max_size=50))
def test_a_line_is_found_and_reaches_beyond_what_was_seen(start, each, sizes):
    estimate = EngineTime()
    for images in [1, 64, *sizes]:
        estimate.observe(images, start + each * images)
    for images in (1, 10, 64, 1000):
        assert estimate(images) == pytest.approx(start + each * images, rel=1e-3)


def test_an_engine_that_has_become_slower_is_soon_believed():
    estimate = EngineTime()
    for _ in range(1000):
        estimate.observe(1, 0.001)
        estimate.observe(32, 0.004)
    for _ in range(250):
        estimate.observe(1, 0.002)
        estimate.observe(32, 0.008)
    assert estimate(32) == pytest.approx(0.008, rel=0.02)


def test_what_is_doubted_is_less_until_the_next_call_and_counts_less_after_it():
    estimate = EngineTime()
    for _ in range(100):
        estimate.observe(1, 0.001)
    estimate.observe(1, 60.0)
    paused = estimate(1)
    assert paused > 0.5
    for _ in range(10):
        estimate.doubt()
    assert estimate(1) == pytest.approx(0.6 * paused, rel=0.01)
    estimate.observe(1, paused)
    assert estimate(1) == pytest.approx(paused)
    for _ in range(40):
        estimate.doubt()
        estimate.observe(1, 0.001)
    assert estimate(1) < 0.6 * paused


def test_calls_of_one_size_keep_what_is_known_of_others():
    estimate = EngineTime()
    estimate.observe(1, 0.001)
    estimate.observe(33, 0.033)
    for _ in range(10_000):
        estimate.observe(1, 0.001)
    assert estimate(33) == pytest.approx(0.033, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 256), seconds), max_size=40), st.integers(1, 256))
def test_noise_never_makes_it_negative_or_smaller_for_more_images(calls, images):
    estimate = EngineTime()
    for size, took in calls:
        estimate.observe(size, took)
    assert 0 <= estimate(images) <= estimate(images + 1)
