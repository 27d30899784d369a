"""Spans, as a collector receives them: a real server sends, a small HTTP server here reads OpenTelemetry's protocol."""

import asyncio
import gzip
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import serve.rpc.traces
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.app import check
from serve.config import ServeConfig
from serve.settings import parse
from tests.fakes import FakeEngine, images
from tests.serve.conftest import Serving

pytestmark = pytest.mark.timeout(60)


@dataclass
class Collector:
    """What was received."""

    url: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    received = Collector()

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.paths.add(self.path)
            received.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receive) as server:
        received.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield received
        server.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_an_answered_request_is_a_span_below_its_callers(serving: Serving, collector: Collector) -> None:
    trace_id, parent_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    before_ns = time.time_ns()
    async with (
        serving(FakeEngine(), otel_endpoint=collector.url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        request = digits_pb2.ClassifyRequest(pixels=images(3).tobytes())
        metadata = [("traceparent", f"00-{trace_id}-{parent_id}-01")]
        response = await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request, metadata=metadata)
    [span] = collector.spans
    assert collector.paths == {"/v1/traces"}
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, parent_id)
    assert span.name == "digits.v1.DigitRecognizer/Classify"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert before_ns < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    found = attributes(span)
    assert found.pop("digits.queue_s") * 1e6 == pytest.approx(response.queue_us, abs=1)
    assert found.pop("digits.compute_s") * 1e6 == pytest.approx(response.compute_us, abs=1)
    assert found == {
        "rpc.system.name": "grpc",
        "rpc.method": "digits.v1.DigitRecognizer/Classify",
        "rpc.response.status_code": "OK",
        "digits.model": "compact",
        "digits.version": "1",
        "digits.images": 3,
        "digits.batch_size": 3,
    }
    resource = {
        each.key: each.value.string_value for each in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "digits"


async def test_refusals_and_messages_of_a_stream_are_spans_and_only_our_faults_are_errors(
    serving: Serving, collector: Collector
) -> None:
    engine = FakeEngine()
    engine.misbehave = [lambda pixels: pixels]
    async with (
        serving(engine, otel_endpoint=collector.url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = digits_pb2_grpc.DigitRecognizerStub(channel).ClassifyStream()
        for pixels in (images(1).tobytes(), b"few"):
            await call.write(digits_pb2.ClassifyRequest(pixels=pixels))
            await call.read()
        await call.done_writing()
    found = [(attributes(span)["error.type"], span.status.code) for span in collector.spans]
    assert found == [("engine_fault", Status.STATUS_CODE_ERROR), ("invalid_request", Status.STATUS_CODE_UNSET)]


async def test_a_caller_that_is_not_traced_is_the_root_and_a_broken_parent_is_ignored(
    serving: Serving, collector: Collector
) -> None:
    async with (
        serving(FakeEngine(), otel_endpoint=collector.url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        get_model = digits_pb2_grpc.DigitRecognizerStub(channel).GetModel
        for metadata in ([], [("traceparent", "00-zz-zz-zz")], [("traceparent", "x" * 2000)]):
            await get_model(digits_pb2.GetModelRequest(), metadata=metadata)
    assert [span.parent_span_id for span in collector.spans] == [b""] * 3
    assert len({span.trace_id for span in collector.spans}) == 3


async def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_end(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.rpc.traces, "_FLUSH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with (
            serving(FakeEngine(), otel_endpoint=url) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            request = digits_pb2.ClassifyRequest(pixels=images(1).tobytes())
            await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request, timeout=10)
            started = time.monotonic()
            await server.server.stop()
            assert time.monotonic() - started < 5
        await asyncio.sleep(0)


def test_opentelemetrys_own_variable_sets_the_endpoint_and_ours_goes_before_it() -> None:
    theirs = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}
    assert parse([], theirs).serve.otel_endpoint == "http://a:1"
    assert parse([], theirs | {"DIGITS_SERVE_OTEL_ENDPOINT": "http://b:1"}).serve.otel_endpoint == "http://b:1"
    assert parse([], {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}).serve.otel_endpoint is None
    assert parse(["--otel-endpoint", "http://c:1"], theirs).serve.otel_endpoint == "http://c:1"


def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded() -> None:
    code = "import serve.__main__, serve.app, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("opentelemetry")]


async def test_where_the_extra_is_not_installed_the_server_says_what_to_install(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "serve.rpc.traces")
    monkeypatch.delattr(serve.rpc, "traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(serve.errors.StartupError, match=r"is not installed; `pip install '\.\[otel\]'` brings it"):
        async with serving(FakeEngine(), otel_endpoint="http://127.0.0.1:1"):
            pass
    with pytest.raises(serve.errors.StartupError, match=r"`pip install '\.\[otel\]'` brings it"):
        list(check(ServeConfig(otel_endpoint="http://127.0.0.1:1")))
