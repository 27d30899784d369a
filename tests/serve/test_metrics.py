"""Metrics, as Prometheus sees them: real requests, real scrapes. What moves is compared whole, so nothing else may."""

import asyncio
import math
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families

import serve.metrics
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc
from serve.metrics import Confidences, Histogram, Metrics
from serve.models import Models
from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import Running, Serving, batcher_of

CLASSIFY, STREAM = "digits.v1.DigitRecognizer/Classify", "digits.v1.DigitRecognizer/ClassifyStream"

Samples = dict[tuple[str, ...], float]
"""By name and the values of its labels, in the labels' order; the served model's are left out."""


def request(count: int, seed: int = 0, **fields: Any) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(pixels=images(count, seed).tobytes(), **fields)


@dataclass(frozen=True)
class Observed:
    """A server with metrics, and a channel to it."""

    running: Running
    channel: grpc.aio.Channel

    @property
    def classify(self) -> Any:
        return digits_pb2_grpc.DigitRecognizerStub(self.channel).Classify

    async def scrape(self) -> Samples:
        def get() -> str:
            url = f"http://127.0.0.1:{self.running.server.backend.metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=10) as response:
                return response.read().decode()

        return {
            (sample.name, *(value for label, value in sorted(sample.labels.items()) if not is_served(label, value))):
            sample.value
            for family in text_string_to_metric_families(await asyncio.to_thread(get))
            for sample in family.samples
        }  # fmt: skip

    async def until(self, expected: Samples, before: Samples) -> None:
        """Scrape until just that has moved: of a caller that leaves the server hears in its own time."""
        async with asyncio.timeout(20):
            while moved(before, await self.scrape()) != expected:  # noqa: ASYNC110, as a scraper does
                await asyncio.sleep(0.02)


def is_served(label: str, value: str) -> bool:
    return (label, value) in (("model", "compact"), ("version", "1"))


def moved(before: Samples, after: Samples) -> Samples:
    """By how much; sums of seconds, buckets and the process's own metrics are left out."""
    differences = {key: value - before.get(key, 0.0) for key, value in after.items()}
    return {
        key: value
        for key, value in differences.items()
        if value and not key[0].startswith("process_") and not key[0].endswith(("_bucket", "_seconds_sum"))
    }


def answered(method: str, pixels: np.ndarray, closed: dict[str, int], requests: int = 1) -> Samples:
    """What moves when requests have been answered."""
    rows = answer_for(pixels)
    by_digit = {
        ("digits_confidence_count", str(digit)): float((rows.argmax(axis=1) == digit).sum()) for digit in range(10)
    }
    confidence = {
        ("digits_confidence_sum", str(digit)): float(rows.max(axis=1)[rows.argmax(axis=1) == digit].sum())
        for digit in range(10)
    }
    executions = sum(closed.values())
    return {
        ("digits_requests_total", "OK", method): requests,
        ("digits_request_seconds_count", method): requests,
        ("digits_queue_seconds_count",): requests,
        ("digits_compute_seconds_count",): requests,
        ("digits_execution_seconds_count",): executions,
        ("digits_batch_images_count",): executions,
        ("digits_batch_images_sum",): len(pixels),
        ("digits_images_total",): len(pixels),
        **{("digits_executions_total", reason): count for reason, count in closed.items()},
        **{key: pytest.approx(value, rel=1e-5) for key, value in (by_digit | confidence).items() if value},
    }


def refused(code: str, reason: str, method: str = CLASSIFY) -> Samples:
    return {("digits_requests_total", code, method): 1, ("digits_refusals_total", method, reason): 1}


def refused_unread(code: str, reason: str, method: str = CLASSIFY) -> Samples:
    """What moves when a request is refused of which nothing is known yet, the model included."""
    return {
        ("digits_requests_total", code, method, "", ""): 1,
        ("digits_refusals_total", method, "", reason, ""): 1,
    }


@pytest.fixture
def observed(serving: Serving) -> Any:
    @asynccontextmanager
    async def start(engine: FakeEngine, **options: Any) -> AsyncIterator[Observed]:
        async with (
            serving(engine, metrics_port=0, **options) as running,
            grpc.aio.insecure_channel(running.address) as channel,
        ):
            yield Observed(running, channel)

    return start


async def queued(server: Observed, count: int) -> None:
    async with asyncio.timeout(20):
        while batcher_of(server.running.server).queued_images != count:  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0.01)


async def test_an_answered_request_moves_all_that_belongs_to_it(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        before = await server.scrape()
        await server.classify(request(5))
        assert moved(before, await server.scrape()) == answered(CLASSIFY, images(5), {"full": 1, "empty": 1})


async def test_a_description_is_a_request_without_images(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        before = await server.scrape()
        await digits_pb2_grpc.DigitRecognizerStub(server.channel).GetModel(digits_pb2.GetModelRequest())
        method = "digits.v1.DigitRecognizer/GetModel"
        assert moved(before, await server.scrape()) == {
            ("digits_requests_total", "OK", method): 1,
            ("digits_request_seconds_count", method): 1,
        }


async def test_the_open_inference_protocol_moves_the_same_under_its_own_methods(observed: Any) -> None:
    pixels = images(2)
    pixels_input = inference_pb2.ModelInferRequest.InferInputTensor(name="pixels", datatype="UINT8", shape=pixels.shape)
    infer = inference_pb2.ModelInferRequest(inputs=[pixels_input], raw_input_contents=[pixels.tobytes()])
    async with observed(FakeEngine()) as server:
        before = await server.scrape()
        await inference_pb2_grpc.GRPCInferenceServiceStub(server.channel).ModelInfer(infer)
        expected = answered("inference.GRPCInferenceService/ModelInfer", pixels, {"empty": 1})
        assert moved(before, await server.scrape()) == expected


async def test_scrapes_alone_move_nothing(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        assert moved(await server.scrape(), await server.scrape()) == {}


async def test_each_message_of_a_stream_is_a_request(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        before = await server.scrape()
        call = digits_pb2_grpc.DigitRecognizerStub(server.channel).ClassifyStream(timeout=30)
        for seed in range(2):
            await call.write(request(1, seed))
            await call.read()
        await call.write(digits_pb2.ClassifyRequest(pixels=b"few"))
        await call.done_writing()
        assert (await call.read()).refusal.code
        pixels = np.concatenate([images(1, 0), images(1, 1)])
        expected = answered(STREAM, pixels, {"empty": 2}, requests=2)
        assert moved(before, await server.scrape()) == expected | refused("INVALID_ARGUMENT", "invalid_request", STREAM)


@pytest.mark.parametrize(
    ("message", "model", "code", "reason"),
    [
        (digits_pb2.ClassifyRequest(pixels=b"few"), (), "INVALID_ARGUMENT", "invalid_request"),
        (request(1, top_k=11), (), "INVALID_ARGUMENT", "invalid_request"),
        (request(1, model="a model\nof my own"), ("", ""), "NOT_FOUND", "unknown_model"),
        (request(1, version="99"), ("", ""), "NOT_FOUND", "unknown_model"),
        (b"\xff\xff", ("", ""), "INVALID_ARGUMENT", "invalid_request"),
    ],
)
async def test_a_bad_request_moves_the_refusals_and_its_text_becomes_no_label(
    observed: Any, message: Any, model: tuple[str, ...], code: str, reason: str
) -> None:
    async with observed(FakeEngine()) as server:
        before = await server.scrape()
        call = server.channel.unary_unary(f"/{CLASSIFY}")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(message if isinstance(message, bytes) else message.SerializeToString())
        # Labels are sorted by name: code or reason, method, model, version.
        assert moved(before, await server.scrape()) == {
            ("digits_requests_total", code, CLASSIFY, *model): 1,
            ("digits_refusals_total", CLASSIFY, *model[:1], reason, *model[1:]): 1,
        }


async def test_a_full_queue_moves_the_refusals_and_the_gauges_tell_of_it(observed: Any) -> None:
    engine = FakeEngine()
    engine.hold()
    async with observed(engine, queue_images=4, max_images_per_request=4) as server:
        before = await server.scrape()
        inside = server.classify(request(4))
        await asyncio.to_thread(engine.wait_until_inside)
        waiting = server.classify(request(3, 1))
        await queued(server, 3)
        with pytest.raises(grpc.aio.AioRpcError):
            await server.classify(request(2))
        assert moved(before, await server.scrape()) == refused("RESOURCE_EXHAUSTED", "queue_full") | {
            ("digits_queue_images",): 3,
            ("digits_requests_in_flight",): 2,
        }
        engine.release()
        await asyncio.gather(inside, waiting)
        after = await server.scrape()
        assert after[("digits_queue_images",)] == after[("digits_requests_in_flight",)] == 0


class SlowEngine(FakeEngine):
    """Takes a fifth of a second for each call."""

    def run(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return super().run(pixels)


async def test_a_deadline_that_cannot_be_met_moves_the_refusals(observed: Any) -> None:
    async with observed(SlowEngine()) as server:
        before = await server.scrape()
        with pytest.raises(grpc.aio.AioRpcError):
            await server.classify(request(1), timeout=0.1)
        assert moved(before, await server.scrape()) == refused("RESOURCE_EXHAUSTED", "deadline_unreachable")


@pytest.mark.parametrize("whose", ["caller", "server"])
async def test_a_deadline_that_passes_moves_the_refusals(observed: Any, whose: str) -> None:
    engine = FakeEngine()
    async with observed(engine, max_deadline_s=0.2 if whose == "server" else 30.0) as server:
        before = await server.scrape()
        engine.hold()
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await server.classify(request(1), timeout=0.2 if whose == "caller" else None)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await server.until(refused("DEADLINE_EXCEEDED", "deadline_exceeded"), before)


async def test_a_caller_that_leaves_is_no_refusal(observed: Any) -> None:
    engine = FakeEngine()
    async with observed(engine) as server:
        before = await server.scrape()
        engine.hold()
        call = server.classify(request(1), timeout=60)
        await asyncio.to_thread(engine.wait_until_inside)
        call.cancel()
        await server.until({("digits_requests_total", "CANCELLED", CLASSIFY): 1}, before)


@pytest.mark.parametrize(
    ("message", "ends", "status", "expected"),
    [
        (None, True, "INVALID_ARGUMENT", refused_unread("INVALID_ARGUMENT", "no_message")),
        (bytes(5 << 20), True, "RESOURCE_EXHAUSTED", refused_unread("INVALID_ARGUMENT", "no_message")),
        (bytes(784), True, "UNIMPLEMENTED", {("digits_requests_total", "CANCELLED", CLASSIFY, "", ""): 1}),
        (None, False, "DEADLINE_EXCEEDED", refused_unread("DEADLINE_EXCEEDED", "no_message")),
    ],
    ids=["none", "too large", "compressed", "never"],
)
async def test_a_call_whose_message_does_not_arrive_whole_is_counted(
    observed: Any, message: bytes | None, ends: bool, status: str, expected: Samples
) -> None:
    async with observed(FakeEngine(), max_deadline_s=1.0) as server:
        before = await server.scrape()
        if message is None:
            call: Any = server.channel.stream_unary(f"/{CLASSIFY}")(timeout=60)
            if ends:
                await call.done_writing()
        else:
            packing = grpc.Compression.Gzip if status == "UNIMPLEMENTED" else None
            call = server.channel.unary_unary(f"/{CLASSIFY}")(message, timeout=60, compression=packing)
        assert (await call.code()).name == status
        await server.until(expected, before)


async def test_a_method_that_does_not_exist_is_counted_but_its_name_becomes_no_label(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        before = await server.scrape()
        with pytest.raises(grpc.aio.AioRpcError, match="no such method; reflection lists those it has") as unknown:
            await server.channel.unary_unary(f"/{CLASSIFY}es")(b"")
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert moved(before, await server.scrape()) == refused_unread("UNIMPLEMENTED", "unknown_method", method="")


async def test_streams_that_are_not_admitted_or_silent_are_counted(observed: Any) -> None:
    async with observed(FakeEngine(), max_calls=2, max_stream_idle_s=0.5, max_deadline_s=0.5) as server:
        before = await server.scrape()
        of_its_own = grpc.aio.insecure_channel(server.running.address, [("grpc.use_local_subchannel_pool", 1)])
        async with of_its_own:  # of one connection there may be fewer
            channels = (server.channel, of_its_own)
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            # At once: the one that is admitted ends by itself, and then there is room for the other.
            streams = [digits_pb2_grpc.DigitRecognizerStub(each).ClassifyStream(timeout=60) for each in channels]
            await asyncio.gather(*(stream.wait_for_connection() for stream in streams))
            assert {(await stream.code()).name for stream in streams} == {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        silent = refused_unread("DEADLINE_EXCEEDED", "silent_stream", STREAM)
        await server.until(silent | refused_unread("RESOURCE_EXHAUSTED", "too_many_streams", STREAM), before)


async def test_an_engine_fault_moves_the_failures_and_classifies_no_image(observed: Any) -> None:
    def fail(_: object) -> NoReturn:
        raise RuntimeError("out of memory")

    engine = FakeEngine()
    engine.misbehave = [fail]
    async with observed(engine) as server:
        before = await server.scrape()
        with pytest.raises(grpc.aio.AioRpcError):
            await server.classify(request(1))
        expected = refused("INTERNAL", "engine_fault") | {("digits_execution_failures_total",): 1}
        assert moved(before, await server.scrape()) == expected


async def test_probabilities_that_are_not_finite_spoil_no_sum(observed: Any) -> None:
    engine = FakeEngine()
    engine.misbehave = [lambda pixels: np.full((len(pixels), 10), np.nan, np.float32)]
    async with observed(engine) as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await server.classify(request(1))
        await server.classify(request(1))
        after = await server.scrape()
    assert sum(value for (name, *_), value in after.items() if name == "digits_confidence_count") == 1
    assert all(map(math.isfinite, after.values()))


async def test_a_drain_can_be_watched_to_its_end(observed: Any) -> None:
    engine = FakeEngine()
    engine.hold()
    async with observed(engine) as server:
        before = await server.scrape()
        inside = server.classify(request(1))
        await asyncio.to_thread(engine.wait_until_inside)
        stop = asyncio.create_task(server.running.server.stop())
        await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError):
            await server.classify(request(1))
        draining = refused("UNAVAILABLE", "draining") | {("digits_requests_in_flight",): 1}
        assert moved(before, await server.scrape()) == draining
        engine.release()
        await inside
        assert await stop
        with pytest.raises(OSError, match="refused"):
            await server.scrape()


async def test_the_delay_is_named_as_what_closed_a_batch(observed: Any) -> None:
    async with observed(FakeEngine(), max_queue_delay_us=20_000) as server:
        before = await server.scrape()
        await server.classify(request(1))
        assert moved(before, await server.scrape()) == answered(CLASSIFY, images(1), {"delay": 1})


async def test_what_is_served_is_named_and_the_process_described(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        after = await server.scrape()
        model = server.running.server.backend.models.find("", "").description
    assert after["digits_model_info", "cpu", "fake", "fp32", model.sha256] == 1
    assert after["process_resident_memory_bytes",] > 1e6


async def test_loads_are_counted_and_a_failing_one_says_why(observed: Any) -> None:
    async with observed(FakeEngine()) as server:
        first = await server.scrape()
        loads = server.running.server.backend.models.loads["compact"]
        loads.failed, loads.last_error = 2, "no\ngood"
        second = await server.scrape()
    assert moved(first, second) == {
        ("digits_loads_total", "failed"): 2,
        ("digits_load_failing", "no\ngood"): 1,
    }
    assert first["digits_loads_total", "succeeded"] == 1


def test_versions_that_are_gone_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.metrics, "_MOST_VERSIONS", 3)
    metrics = Metrics(Models())
    for version in "123456":
        metrics.of("m", version).executed(1, 0.1, "full")
        metrics.count_call("s/M", "m", version, "OK", "", 0.1)
    versions = {sample.labels["version"] for family in metrics.collect() for sample in family.samples}
    assert versions == {"4", "5", "6"}


async def test_two_servers_in_one_process_keep_their_metrics_apart(observed: Any) -> None:
    async with observed(FakeEngine()) as one, observed(FakeEngine()) as other:
        before = await other.scrape()
        await one.classify(request(1))
        assert moved(before, await other.scrape()) == {}


def test_buckets_go_up_to_and_with_their_bound_and_count_all_below() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.1, 4.0, 5.0):
        histogram.observe(value)
    family = HistogramMetricFamily("h", "", labels=())
    histogram.add_to(family, ())
    found = {sample.labels.get("le", sample.name): sample.value for sample in family.samples}
    assert found == {"1": 2, "2": 3, "4": 4, "+Inf": 5, "h_count": 5, "h_sum": pytest.approx(11.6)}


def test_confidences_are_the_same_however_many_answers_they_came_in() -> None:
    rows = answer_for(images(1000))
    confidences, seen = Confidences(), 0
    for size in (1, 255, 1, 3, 300, 40, 400):
        confidences.observe(rows[seen : seen + size])
        seen += size
        part, digits = rows[:seen], rows[:seen].argmax(axis=1)
        images_by_digit, sums = confidences.totals()
        assert images_by_digit.tolist() == np.bincount(digits, minlength=10).tolist()
        np.testing.assert_allclose(sums, [part[digits == digit].max(axis=1).sum() for digit in range(10)], rtol=1e-5)
    assert seen == 1000
