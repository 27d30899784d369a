"""`grpc.health.v1`: what load balancers and orchestrators ask.

Our own forty lines, because grpcio-health-checking writes to watchers under the lock that every change of status
needs: one watcher that does not read would keep the server from ever reporting that it drains.
"""

import asyncio
from typing import TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """One status for a fixed set of services; at first NOT_SERVING."""

    def __init__(self, services: list[str]) -> None:
        self._services = frozenset(services)
        self._serving = False
        self._changed = asyncio.Event()

    def report(self, *, serving: bool) -> None:
        """Change the status. Watchers are told as fast as each of them reads."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is not known."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service {request.service!r:.80} is not known here")
        return self._status(request)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The status now and after each change, until the caller leaves."""
        sent = None
        while True:
            changed, response = self._changed, self._status(request)
            if response != sent:
                await context.write(response)
                sent = response
            else:
                await changed.wait()

    def _status(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            return health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN)
        return health_pb2.HealthCheckResponse(status=SERVING if self._serving else NOT_SERVING)
