"""Puts the server together and takes it down again.

Start: bind the port; verify the bundles, open, check and warm up their engines; then report ready.
Stop: report not ready, refuse new requests, answer the accepted ones, close.
"""

import asyncio
import functools
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2
from serve.batcher import Batcher
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.loader import Loader
from serve.model import Model, check_bundle
from serve.models import Models
from serve.repository import scan
from serve.rpc import digits, health, inference, tls, token
from serve.rpc.arrival import Punctual
from serve.rpc.health import Health
from serve.rpc.transport import channel_options, quieten
from serve.telemetry import Telemetry

log = logging.getLogger(__name__)

SERVICES = (digits.SERVICE, inference.SERVICE)


class Server:
    """Models behind one port.

    Lifecycle: construct, `start`, `stop`; the last two once each, on one event loop.

    Attributes:
        telemetry: What operators see.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._models = Models(default=config.default_model)
        self._health = Health(max_watchers=max(1, config.max_calls // 4))
        self.telemetry = Telemetry(config, self._models)
        open_model = functools.partial(
            Model.open, config=config, on_failure=self._report, observer=self.telemetry.batch_observer
        )
        self._loader = Loader(config, self._models, open_model, on_change=self._report)
        self._ready = False
        self._reported: set[str] = set()

    async def start(self) -> int:
        """Start serving.

        Returns:
            The port.

        Raises:
            StartupError: No bundle, no engine or not the port is usable. Nothing is left running.
        """
        await self.telemetry.start()
        try:
            return await self._serve()
        except BaseException:
            await self.telemetry.stop()
            raise

    async def _serve(self) -> int:
        config, telemetry = self._config, self.telemetry
        self._report()
        control = self._loader if config.model_control else None
        self._grpc = grpc.aio.server(
            options=channel_options(config),
            maximum_concurrent_rpcs=config.max_calls,
            interceptors=token.interceptors(config),
        )
        port = _bind(self._grpc, config)
        inferences = inference.InferenceService(self._models, self._health, control)
        handlers = [
            digits.handler(digits.DigitRecognizer(self._models), telemetry.call_observers),
            inference.handler(inferences, telemetry.call_observers),
            health.handler(self._health),
        ]
        self._grpc.add_generic_rpc_handlers(
            [Punctual(handler, max_deadline_s=config.max_deadline_s) for handler in handlers]
        )
        reflection.enable_server_reflection((*SERVICES, health.NAME, reflection.SERVICE_NAME), self._grpc, _described())
        await self._grpc.start()
        try:
            await self._loader.start()
        except BaseException:
            await asyncio.gather(*(model.batcher.abort() for model in self._loader.close()))
            await self._grpc.stop(grace=None)
            raise
        self._ready = True
        self._report()
        return port

    def _report(self) -> None:
        """Health follows from what is served: that of each model, and the server's, which needs all of them.

        Where an engine has died the process must be started anew, which is for those who watch it to decide.
        """
        healthy: dict[str, bool] = {}
        for model in self._models:
            name = model.description.name
            healthy[name] = healthy.get(name, self._ready) and not model.batcher.failed
        for gone in self._reported - healthy.keys():
            self._health.forget(gone)
        self._reported = set(healthy)
        for name, serving in healthy.items():
            self._health.report(name, serving=serving)
        self._health.report("", *SERVICES, serving=bool(healthy) and all(healthy.values()))

    async def stop(self, hurry: asyncio.Event | None = None) -> bool:
        """Stop serving: nothing new is accepted, what was accepted is answered within the configured grace.

        Args:
            hurry: Setting it ends the grace at once.

        Returns:
            Whether every accepted request was answered.
        """
        self._ready = False
        self._report()
        batchers = [model.batcher for model in self._loader.close()]
        drain = asyncio.ensure_future(_drain(batchers))
        hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
        await asyncio.wait({drain, hurried}, timeout=self._config.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        unanswered = 0
        if not drain.done():
            drain.cancel()
            unanswered = sum(await asyncio.gather(*(batcher.abort() for batcher in batchers)))
            log.warning("stopped with %d requests unanswered", unanswered)
        # The answers are there; handlers need a moment to send them.
        await self._grpc.stop(grace=1.0)
        await self.telemetry.stop()
        return not unanswered and not any(batcher.failed for batcher in batchers)


async def _drain(batchers: list[Batcher]) -> None:
    await asyncio.gather(*(batcher.drain() for batcher in batchers))


def check(config: ServeConfig) -> Iterator[str]:
    """Whether everything that lies there could be served with this configuration, whatever versions it asks for.

    Yields:
        For each bundle a line.

    Raises:
        StartupError: Some cannot be served; the message says which, and why.
    """
    tls.credentials(config)
    token.interceptors(config)
    errors = []
    for sources in scan(config.models).values():
        for source in sources:
            try:
                yield check_bundle(source, config)
            except StartupError as error:
                errors.append(str(error))
    if errors:
        raise StartupError("; ".join(errors))


async def run(config: ServeConfig, on_ready: Callable[[int], None]) -> bool:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        config: The configuration.
        on_ready: Called with the port once requests are accepted.

    Returns:
        Whether every accepted request was answered.

    Raises:
        StartupError: See `Server.start`.
    """
    quieten()
    server = Server(config)
    stop, hurry = asyncio.Event(), asyncio.Event()
    with _signals(lambda: (hurry if stop.is_set() else stop).set()):
        start, stopped = asyncio.ensure_future(server.start()), asyncio.ensure_future(stop.wait())
        await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            log.info("stopped while starting")
            start.cancel()
            await asyncio.wait({start})
            return True
        on_ready(start.result())
        await stopped
        log.info("draining")
        return await server.stop(hurry)


@contextmanager
def _signals(on_signal: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            # All is done and the process is about to end: one more signal must not make that a death by signal.
            signal.signal(number, signal.SIG_IGN)


def _described() -> DescriptorPool:
    """What reflection describes, in a pool of its own as protobuf's default one may have another `inference`."""
    pool = DescriptorPool()
    for module in (digits_pb2, inference_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


def _bind(server: grpc.aio.Server, config: ServeConfig) -> int:
    address = f"{config.host}:{config.port}"
    credentials = tls.credentials(config)
    try:
        return server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {address}: the port is in use or the address is not this machine's; "
            "choose another --port (0 takes a free one) or --host"
        ) from error
