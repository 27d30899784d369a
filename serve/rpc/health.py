"""`grpc.health.v1`: what load balancers and orchestrators ask.

Our own forty lines, because grpcio-health-checking writes to watchers under the lock that every change of status
needs: one watcher that does not read would keep the server from ever reporting that it drains.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """A status for the server as a whole, "", and for each service and model by its name.

    Args:
        max_watchers: Most watches at once. They last, and need no token, so they must not take up every call.
    """

    def __init__(self, *, max_watchers: int = 1024) -> None:
        self._max_watchers = max_watchers
        self._watchers = 0
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def replace(self, serving: Mapping[str, bool]) -> None:
        """Change what is known: whether each service serves. Watchers are told as fast as each of them reads."""
        self._statuses = {service: SERVING if serves else NOT_SERVING for service, serves in serving.items()}
        self._changed.set()
        self._changed = asyncio.Event()

    def serving(self, service: str = "") -> bool:
        """Whether a service serves; by default, whether the server does."""
        return self._statuses.get(service) == SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is not known."""
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service {request.service!r:.80} is not known here")
        return self._status(request)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The status now and after each change, until the caller leaves; RESOURCE_EXHAUSTED where too many watch."""
        if self._watchers >= self._max_watchers:
            details = f"{self._watchers} callers watch, the most that may; ask with Check, or try again later"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
        self._watchers += 1
        try:
            await self._watch(request, context)
        finally:
            self._watchers -= 1

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        sent = None
        while True:
            changed, response = self._changed, self._status(request)
            if response != sent:
                await context.write(response)
                sent = response
            else:
                await changed.wait()

    def _status(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        status: Any = self._statuses.get(request.service, SERVICE_UNKNOWN)
        return health_pb2.HealthCheckResponse(status=status)


def handler(servicer: Health) -> grpc.GenericRpcHandler:
    """The servicer's methods as gRPC wants them."""
    read = health_pb2.HealthCheckRequest.FromString
    write = health_pb2.HealthCheckResponse.SerializeToString
    return grpc.method_handlers_generic_handler(
        NAME,
        {
            "Check": grpc.unary_unary_rpc_method_handler(servicer.Check, read, write),
            "Watch": grpc.unary_stream_rpc_method_handler(servicer.Watch, read, write),
        },
    )
