"""The check of an engine: what it measures, and what it lets pass."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from bundle import Bundle
from serve.engines import Pixels, Probabilities
from serve.engines.onnx_runtime import GRAPH, open_onnx_runtime
from serve.errors import CheckFailed
from serve.probe import Bounds, Finding, Probe, checked, judge
from tests.fakes import FakeEngine, answer_for, images

BOUNDS = Bounds(max_difference=1e-3, max_latency_ms=10)
GOOD = Finding(images=200, decided=190, agreeing=190, difference=1e-6, accuracy=0.99, latency_ms=1)


def probe(count: int = 70) -> Probe:
    """What a `FakeEngine` answers rightly; each reference is decided."""
    pixels = images(count)
    pixels[:, 0, 0, :10] = 0
    labels = (np.arange(count) % 10).astype(np.uint8)
    pixels[np.arange(count), 0, 0, labels] = 255
    return Probe(pixels=pixels, labels=labels, reference=answer_for(pixels))


def measured(answer=answer_for, **options) -> Finding:
    engine = FakeEngine()
    engine.misbehave = [answer] * 100
    return probe().measure(engine, **({"max_batch": 32} | options))


def test_an_engine_that_answers_as_the_reference_is_found_without_fault():
    finding = measured()
    assert (finding.images, finding.decided, finding.agreeing, finding.difference) == (70, 70, 70, 0)
    assert finding.accuracy == 1
    assert judge(finding, replace(BOUNDS, max_latency_ms=1000)) == []


@pytest.mark.parametrize(("max_batch", "sizes"), [(256, [32, 32, 6]), (32, [32, 32, 6]), (20, [20, 20, 20, 10])])
def test_calls_are_no_larger_than_the_engine_takes(max_batch, sizes):
    engine = FakeEngine()
    probe().measure(engine, max_batch=max_batch)
    assert [len(batch) for batch in engine.batches] == sizes


def test_the_latency_is_the_median_over_the_calls():
    ticks = itertools.accumulate([0.0, 0.5, 0.0, 0.002, 0.0, 0.003])
    assert measured(clock=lambda: next(ticks)).latency_ms == pytest.approx(3)


def test_digits_count_only_where_the_reference_was_decided():
    def hesitant(pixels: Pixels) -> Probabilities:
        return np.full((len(pixels), 10), 0.1, np.float32)

    assert measured(hesitant).agreeing == 7
    undecided = replace(probe(), reference=hesitant(images(70)))
    assert undecided.measure(FakeEngine(), max_batch=32).decided == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agreeing": 188}, "it names the reference's digit on 188 of 190 images, at least 99% was expected"),
        ({"difference": 0.002}, "a probability differs from the reference's by 0.002, at most 0.001 was expected"),
        ({"difference": float("nan")}, "differs from the reference's by nan"),
        ({"latency_ms": 10.5}, "a call takes 10.5 ms, at most 10 was expected (--check-latency-ms)"),
    ],
)
def test_each_bound_is_kept_by_itself(change, message):
    [wrong] = judge(replace(GOOD, **change), BOUNDS)
    assert message in wrong


def test_at_the_bounds_it_passes():
    at_bounds = replace(GOOD, decided=200, agreeing=198, difference=1e-3, latency_ms=10)
    assert judge(at_bounds, BOUNDS) == []


def test_an_engine_that_fails_is_not_handed_out_and_is_closed():
    engine = FakeEngine()
    engine.misbehave = [lambda pixels: np.roll(answer_for(pixels), 1, axis=1)] * 100
    with (
        pytest.raises(CheckFailed, match="it names the reference's digit on 0 of 70 images"),
        checked(engine.open, probe(), BOUNDS, max_batch=32)(),
    ):
        pytest.fail("the engine was handed out")


def test_a_real_bundle_passes_on_its_own_engine(bundle):
    opened = Bundle.open(bundle)
    found = Probe.of(opened)
    assert found is not None
    with checked(
        lambda: open_onnx_runtime(opened.read(GRAPH)), found, replace(BOUNDS, max_latency_ms=1000), max_batch=32
    )() as engine:
        assert engine.name == "onnxruntime"


def test_a_bundle_without_a_probe_set_has_none(unprobed):
    assert Probe.of(Bundle.open(unprobed)) is None
