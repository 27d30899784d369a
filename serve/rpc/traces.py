"""Spans for OpenTelemetry, sent over OTLP. Imported only where traces are configured.

A span is made when its request has ended, from what is known then, and goes to a queue that a thread of the library's
empties; what the collector does not take is dropped.

Sampling, attributes of the process and more are set by OpenTelemetry's own variables, such as OTEL_TRACES_SAMPLER.
"""

import asyncio
import os
import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve.rpc.calls import Call

# What has not been sent so long after the last request is lost.
_FLUSH_S = 3.0

# Of gRPC's codes, those that are the server's fault, by OpenTelemetry's conventions.
_OUR_FAULT = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class Traces:
    """A span for every request.

    Args:
        endpoint: The collector's URL, without the path.
    """

    def __init__(self, endpoint: str) -> None:
        self._exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "digits")})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("serve")
        self._propagator = TraceContextTextMapPropagator()

    def observe_call(self, call: Call) -> None:
        """A request has ended: one of `serve.rpc.calls.Observers`."""
        ended_ns = time.time_ns()
        carrier = {key: value for key in ("traceparent", "tracestate") if (value := call.metadata(key))}
        span = self._tracer.start_span(
            call.method,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=ended_ns - round(call.seconds * 1e9),
        )
        if span.is_recording():
            span.set_attributes({"rpc.system.name": "grpc", "rpc.method": call.method})
            span.set_attributes({"rpc.response.status_code": call.code, "digits.images": call.images})
            if call.model:
                span.set_attributes({"digits.model": call.model.name, "digits.version": call.model.version})
            if call.answer:
                span.set_attribute("digits.batch_size", call.answer.batch_size)
                span.set_attribute("digits.queue_s", call.answer.queue_s)
                span.set_attribute("digits.compute_s", call.answer.compute_s)
            if call.reason:
                span.set_attribute("error.type", call.reason)
            if call.code in _OUR_FAULT:
                span.set_status(StatusCode.ERROR)
        span.end(ended_ns)

    async def close(self) -> None:
        """Send what is left, and stop."""
        flush = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, _FLUSH_S)
        if flush.is_alive():
            # A collector that does not answer: this ends the wait for it.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
