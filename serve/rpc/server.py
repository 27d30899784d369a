"""The gRPC server: its port, its limits, and the services on it."""

from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as async_reflection

from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.models import ModelControl, Models
from serve.pictures import Pictures
from serve.rpc import digits, health, inference, tls, token
from serve.rpc.arrival import Arrivals, Punctual
from serve.rpc.calls import Observers
from serve.rpc.health import Health
from serve.rpc.transport import channel_options, quieten

SERVICES = (digits.SERVICE, inference.SERVICE)


class RpcServer:
    """Answers for some models on one port.

    Lifecycle: construct, `start`, `report` at every change, `stop`; on one event loop.

    Args:
        config: The configuration.
        models: What answers.
        control: Loads and unloads models; None where that is not allowed.
        observers: Are told of every request.
        arrivals: Counts the calls whose request is on its way.
        pictures: Reads pictures.
        shares_port: Whether other processes of this server listen on the same port.
    """

    def __init__(
        self,
        config: ServeConfig,
        models: Models[Any],
        control: ModelControl | None,
        observers: Observers,
        arrivals: Arrivals,
        pictures: Pictures,
        *,
        shares_port: bool = False,
    ) -> None:
        self._config = config
        self._health = Health(max_watchers=max(1, config.max_calls // 4))
        self._arrivals = arrivals
        self._observers = observers
        self._shares_port = shares_port
        self._handlers = [
            digits.handler(digits.DigitRecognizer(models, pictures), observers),
            inference.handler(inference.InferenceService(models, self._health, control), observers),
            health.handler(self._health),
            _reflection(),
        ]
        self.report({"": False})

    async def start(self) -> int:
        """Accept calls.

        Returns:
            The port.

        Raises:
            StartupError: The port cannot be had, or not the certificate or the tokens that are configured.
        """
        config = self._config
        quieten()
        self._server = grpc.aio.server(
            options=channel_options(config, shares_port=self._shares_port),
            maximum_concurrent_rpcs=config.max_calls,
            interceptors=token.interceptors(config, self._observers),
        )
        port = self._bind()
        self._server.add_generic_rpc_handlers(
            [
                Punctual(
                    self._handlers,
                    self._arrivals,
                    max_deadline_s=config.max_deadline_s,
                    max_stream_idle_s=config.max_stream_idle_s,
                    max_streams=max(1, config.max_calls // 2),
                    observers=self._observers,
                )
            ]
        )
        await self._server.start()
        return port

    def report(self, statuses: Mapping[str, bool]) -> None:
        """Say who is healthy: models by name, and under "" the server with its services. Others are forgotten."""
        self._health.replace({**statuses, **dict.fromkeys(SERVICES, statuses[""])})

    async def stop(self, grace_s: float | None) -> None:
        """Accept no more calls, and give those under way so much time."""
        await self._server.stop(grace_s)

    def _bind(self) -> int:
        address = f"{self._config.host}:{self._config.port}"
        credentials = tls.credentials(self._config)
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {address}: the port is in use or the address is not this machine's; "
                "choose another --port (0 takes a free one) or --host"
            ) from error


def _reflection() -> grpc.GenericRpcHandler:
    """What the server can do, for callers who ask; a stream, whose messages must come like those of any other."""
    servicer: Any = async_reflection.ReflectionServicer(
        (*SERVICES, health.NAME, reflection.SERVICE_NAME), pool=_described()
    )

    async def answer(messages: Any, context: Any) -> None:
        async for response in servicer.ServerReflectionInfo(messages, context):
            await context.write(response)

    method = grpc.stream_stream_rpc_method_handler(
        answer,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": method})


def _described() -> DescriptorPool:
    """What reflection describes, in a pool of its own as protobuf's default one may have another `inference`."""
    pool = DescriptorPool()
    for module in (digits_pb2, inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
