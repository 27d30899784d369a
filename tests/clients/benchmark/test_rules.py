"""The rules, without a server: when requests are due, what is stable, what an SLO is, which differences count."""

import asyncio
import dataclasses
import itertools
import math
import os

import numpy as np
import pytest
from scipy import stats

from clients.benchmark import resources, schedule
from clients.benchmark.calls import refusal
from clients.benchmark.compare import compare, holm, mann_whitney
from clients.benchmark.document import Document, Level, WindowResult
from clients.benchmark.percentiles import Histogram
from clients.benchmark.resources import gpu_means
from clients.benchmark.slo import PRECISION, Slo, search
from clients.benchmark.stability import is_stable
from clients.benchmark.table import render
from clients.errors import DigitError
from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2

# When requests are due


def moments(arrivals, *, shares, seconds=50.0, rate=100.0) -> np.ndarray:
    def of(share):
        due = schedule.due(arrivals, rate, share=share, shares=shares, seed=0)
        return list(itertools.takewhile(lambda moment: moment < seconds, due))

    return np.sort(np.concatenate([of(share) for share in range(shares)]))


@pytest.mark.parametrize("shares", [1, 3])
def test_poisson_arrivals_of_all_processes_together_are_poisson(shares):
    gaps = np.diff(moments("poisson", shares=shares))
    assert len(gaps) == pytest.approx(5000, rel=0.05)
    assert stats.kstest(gaps * 100, "expon").pvalue > 0.01


@pytest.mark.parametrize("shares", [1, 3])
def test_fixed_arrivals_of_all_processes_together_are_evenly_spaced(shares):
    np.testing.assert_allclose(moments("fixed", shares=shares), np.arange(5000) / 100)


# What is stable


@pytest.mark.parametrize(
    ("windows", "stable"),
    [
        ([[100, 1.0]] * 3, True),
        ([[100, 1.0]] * 2, False),
        ([[95, 1.0], [105, 1.0], [100, 1.0]], True),
        ([[100, 1.0], [100, 1.0], [100, 1.3]], False),
        ([[100, 1.0], [100, 1.0], [math.nan, math.nan]], False),
        # The last three agree, but the result, in which the first counts as well, is another.
        ([[200, 1.0], [100, 1.0], [100, 1.0], [100, 1.0]], False),
        ([[120, 1.0], [100, 1.0], [100, 1.0], [100, 1.0]], True),
    ],
)
def test_stable_is_what_agrees_at_its_end_and_as_a_whole(windows, stable):
    assert is_stable(windows, count=3, agreement=0.1) is stable


# SLO


def test_an_slo_is_a_percentile_and_a_time():
    assert Slo.parse("p99.9=250us") == Slo(name="p99.9=250us", share=pytest.approx(0.999), within_s=250e-6)
    for text in ("p99", "p100=5ms", "p0=5ms", "99=5ms", "p99=5", "p99=0ms", "p99=-1ms"):
        with pytest.raises(ValueError, match="--slo is"):
            Slo.parse(text)


def searched(meets) -> tuple[float, list[float]]:
    rates, tried = search(1000.0), []
    rate = next(rates)
    while True:
        tried.append(rate)
        try:
            rate = rates.send(meets(rate))
        except StopIteration as end:
            return end.value, tried


@pytest.mark.parametrize("highest", [3.0, 900.0, 1000.0, 77_000.0])
def test_the_search_finds_the_highest_rate_that_meets_the_slo(highest):
    found, tried = searched(lambda rate: rate <= highest)
    assert highest * (1 - 1.1 * PRECISION) <= found <= highest
    assert found in tried
    assert len(tried) <= 16


def test_the_search_ends_where_no_rate_or_every_rate_meets_the_slo():
    assert searched(lambda _: False)[0] == 0
    assert searched(lambda _: True)[0] >= 1e6


def test_the_search_ends_where_there_are_too_few_requests_to_tell():
    assert searched(lambda _: None) == (None, [1000.0])
    assert searched(lambda rate: True if rate < 3000 else None)[0] == 2000


# Which differences count


def level(rates, latencies_ms, name=8) -> Level:
    histogram = Histogram()
    for each in latencies_ms:
        histogram.record(each / 1e3)
    windows = [
        WindowResult(seconds=1.0, due=int(rate), failed=0, answers_per_s=rate, p50_ms=p50, p99_ms=2 * p50)
        for rate, p50 in zip(rates, latencies_ms, strict=True)
    ]
    return Level(
        loop="closed", callers=name, rate_per_s=None, seconds=10.0, due=10, answered=10, errors={}, reasons={},
        requests_per_s=float(np.mean(rates)), images_per_s=1.0, stable=True, interrupted=False,
        latency=histogram.distribution(), service=None, late=None, windows=windows, server=None, goodput=None,
        metrics={}, client_usage=None, server_usage=None, gpus=[],
    )  # fmt: skip


def document(*levels, **options) -> Document:
    defaults = {
        "address": "a:1", "protocol": "digits", "images": 1, "streams": 0, "arrivals": "poisson", "processes": 1,
        "warmup_s": 1.0, "stable_windows": 5, "agreement": 0.1, "slo": None, "rate": [], "concurrency": [8],
    }  # fmt: skip
    return Document(
        command=[], options=defaults | options, conditions={}, server={}, floor=[], levels=list(levels),
        highest_rate_per_s=None, interrupted=False,
    )  # fmt: skip


def noisy(mean, seed):
    return mean * np.random.default_rng(seed).normal(1, 0.03, 10)


def test_a_real_change_is_beyond_noise_and_noise_is_not():
    before = document(level(noisy(1000, 0), noisy(2.0, 1)))
    same = document(level(noisy(1000, 2), noisy(2.0, 3)))
    worse = document(level(noisy(800, 4), noisy(2.6, 5)))
    assert {each.verdict for each in compare(before, same)} == {"within noise"}
    assert {each.verdict for each in compare(before, worse)} == {"worse"}
    assert {each.verdict for each in compare(worse, before)} == {"better"}


def test_a_certain_but_small_change_is_within_noise():
    before, after = (document(level(np.full(10, rate), np.full(10, 2.0))) for rate in (1000.0, 1040.0))
    rates = compare(before, after)[0]
    assert rates.p < 0.01
    assert rates.verdict == "within noise"


def test_windows_without_an_answer_count_and_are_beyond_noise():
    before = level(np.full(10, 1000.0), np.full(10, 2.0))
    after = dataclasses.replace(
        before,
        windows=[dataclasses.replace(each, answers_per_s=0.0, p50_ms=None, p99_ms=None) for each in before.windows],
    )
    (rates,) = compare(document(before), document(after))
    assert (rates.before, rates.after, rates.verdict) == (1000, 0, "worse")
    (rates,) = compare(document(after), document(before))
    assert (rates.change, rates.verdict) == (math.inf, "better")


def test_too_few_windows_for_any_difference_are_known_as_such():
    few, enough = (document(level(np.full(count, 1000.0), np.full(count, 2.0))) for count in (5, 10))
    assert {each.is_decidable for each in compare(few, few)} == {False}
    assert {each.is_decidable for each in compare(enough, enough)} == {True}


def test_what_was_measured_differently_is_not_compared():
    one = level(noisy(1000, 0), noisy(2.0, 1))
    with pytest.raises(DigitError, match="--images was 1 before and is 2 after"):
        compare(document(one), document(one, images=2))
    with pytest.raises(DigitError, match="measured were 8 callers before and 9 callers after"):
        compare(document(one), document(dataclasses.replace(one, callers=9)))


def test_mann_whitney_and_holm_are_those_of_the_books():
    random = np.random.default_rng(0)
    for shift in (0.0, 0.8, 3.0):
        x, y = random.normal(size=8), random.normal(shift, size=9)
        exact = stats.mannwhitneyu(x, y, method="exact").pvalue
        assert mann_whitney(x, y) == pytest.approx(exact, rel=0.2, abs=1e-3)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


# What is read


def test_refusals_within_a_stream_are_known_from_answers():
    answer = digits_pb2.ClassifyStreamResponse(response=digits_pb2.ClassifyResponse(model="m"))
    refused = digits_pb2.ClassifyStreamResponse(refusal=digits_pb2.Refusal(code=8))
    assert refusal("digits", answer.SerializeToString()) is None
    assert refusal("digits", refused.SerializeToString()) == "RESOURCE_EXHAUSTED"
    answer = inference_pb2.ModelStreamInferResponse(infer_response=inference_pb2.ModelInferResponse(id="1"))
    refused = inference_pb2.ModelStreamInferResponse(error_message="no")
    assert refusal("inference", answer.SerializeToString()) is None
    assert refusal("inference", refused.SerializeToString()) == "error message"


def test_gpu_figures_are_means_and_what_a_gpu_does_not_tell_is_unknown():
    first, second = gpu_means(
        "0, NVIDIA L4, 50, 1000, 40.5\n1, NVIDIA T4, 0, 10, [N/A]\n0, NVIDIA L4, 70, 3000, 41.5\nhalf a li"
    )
    assert (first.name, first.utilization_percent, first.power_w) == ("NVIDIA L4", 60, 41)
    assert first.memory_mb == pytest.approx(2000 * 1.048576)
    assert math.isnan(second.power_w)


async def test_nvidia_smi_is_asked_where_it_is_and_ended(tmp_path, monkeypatch):
    told = tmp_path / "told"
    os.mkfifo(told)
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "0, NVIDIA L4, 50, 1000, 40"\necho told >{told}\nexec sleep 100\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    async with resources.watch_gpus() as gpus:
        await asyncio.to_thread(told.read_text)
    assert [gpu.name for gpu in gpus] == ["NVIDIA L4"]


def test_the_table_tells_what_is_not_known_and_what_is_not_stable():
    one = dataclasses.replace(
        level(noisy(1000, 0), noisy(2.0, 1)), stable=False, errors={"UNAVAILABLE": 3}, reasons={"UNAVAILABLE": "away"}
    )
    text = render(document(one))
    assert "too few requests to say. p99 needs 368" in text
    assert "Not stable: 8 callers" in text
    assert "8 callers       3  30.0%  UNAVAILABLE: away" in text
