"""Puts the server together and takes it down again.

Start: verify the bundle, bind the port, open and warm up the engines, then report ready.
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
import numpy as np
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bundle import Bundle, BundleError
from bundle.manifest import INPUT, OUTPUT
from protos.digits.v1 import digits_pb2
from serve import health
from serve.batcher import Batcher
from serve.config import ServeConfig
from serve.engines import IMAGE_BYTES, IMAGE_SHAPE, Engine
from serve.engines.selection import Selection, select
from serve.errors import StartupError
from serve.servicer import SERVICE, DigitRecognizer, handler

log = logging.getLogger(__name__)

# A message is read whole before its images can be counted. Up to here a caller that sends too many is told our limit
# and how to go on; beyond it the transport refuses, in words of its own.
_MESSAGE_BYTES = 4 << 20


class Server:
    """One model behind one port.

    Lifecycle: construct, `start`, `stop`; the last two once each, on one event loop.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config

    async def start(self) -> int:
        """Start serving.

        Returns:
            The port.

        Raises:
            StartupError: The bundle, the engine or the port is not usable. Nothing is left running.
        """
        config = self._config
        bundle = _open_bundle(config)
        selection = _select(bundle, config)
        slots, max_batch = config.slots or selection.slots, config.max_batch or selection.batch
        self._health = health.Health(["", SERVICE, bundle.manifest.name])
        self._batcher = Batcher(
            selection.open,
            slots=slots,
            max_batch=max_batch,
            queue_images=config.queue_images,
            on_failure=functools.partial(self._health.report, serving=False),
        )
        self._grpc = grpc.aio.server(options=_channel_options(config), maximum_concurrent_rpcs=config.max_calls)
        port = _bind(self._grpc, config)
        model = _describe(bundle, selection, config, max_batch)
        self._grpc.add_generic_rpc_handlers(
            [handler(DigitRecognizer(model, self._batcher, max_deadline_s=config.max_deadline_s))]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((SERVICE, health.NAME, reflection.SERVICE_NAME), self._grpc)
        await self._grpc.start()
        engine = await self._start_engines()
        model.engine, model.device, model.precision = engine.name, engine.device, engine.precision
        self._health.report(serving=not self._batcher.failed)
        log.info(
            "serving %s version %s with %s on %s, %d engine threads",
            model.name,
            model.version,
            model.engine,
            model.device,
            slots,
        )
        return port

    async def _start_engines(self) -> Engine:
        try:
            return await self._batcher.start()
        except BaseException as error:
            await self._grpc.stop(grace=None)
            if isinstance(error, StartupError) or not isinstance(error, Exception):
                raise
            # An engine's library raises what it likes.
            raise StartupError(f"{self._config.bundle}: the engine cannot run this model: {error}") from error

    async def stop(self, hurry: asyncio.Event | None = None) -> bool:
        """Stop serving: nothing new is accepted, what was accepted is answered within the configured grace.

        Args:
            hurry: Setting it ends the grace at once.

        Returns:
            Whether every accepted request was answered.
        """
        self._health.report(serving=False)
        drain = asyncio.ensure_future(self._batcher.drain())
        hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
        await asyncio.wait({drain, hurried}, timeout=self._config.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        unanswered = 0
        if not drain.done():
            drain.cancel()
            unanswered = await self._batcher.abort()
            log.warning("stopped with %d requests unanswered", unanswered)
        # The answers are there; handlers need a moment to send them.
        await self._grpc.stop(grace=1.0)
        return not unanswered and not self._batcher.failed


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


def check(config: ServeConfig) -> str:
    """Whether a server with this configuration would start, as far as that can be known without a port.

    Returns:
        What would be served, in a line.

    Raises:
        StartupError: It would not.
    """
    bundle = _open_bundle(config)
    selection = _select(bundle, config)
    with selection.open() as engine:
        engine.run(np.zeros((1, *IMAGE_SHAPE), np.uint8))
    manifest = bundle.manifest
    return (
        f"ok: {config.bundle} is {manifest.name} version {manifest.version}; {selection.file} runs with {engine.name} "
        f"on {engine.device}"
    )


def _open_bundle(config: ServeConfig) -> Bundle:
    """The verified bundle, whose model takes and gives what this server does."""
    try:
        bundle = Bundle.open(config.bundle)
    except BundleError as error:
        raise StartupError(str(error)) from error
    for found, expected in ((bundle.manifest.input, INPUT), (bundle.manifest.output, OUTPUT)):
        if found != expected:
            raise StartupError(f"{config.bundle}: the model has {found}, {expected} was expected; export it again")
    return bundle


def _select(bundle: Bundle, config: ServeConfig) -> Selection:
    """The engine that serves, able to take the batches that are configured."""
    try:
        selection = select(bundle, config.engine)
    except BundleError as error:
        raise StartupError(str(error)) from error
    if config.slots is not None and selection.most_slots is not None and config.slots > selection.most_slots:
        raise StartupError(
            f"--slots is {config.slots}; {config.engine} on this GPU takes at most {selection.most_slots}"
        )
    largest = selection.largest_batch
    if config.max_batch is not None and largest is not None and config.max_batch > largest:
        raise StartupError(
            f"--max-batch is {config.max_batch}; {selection.file} takes at most {largest} images at a time"
        )
    return selection


def _channel_options(config: ServeConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max(_MESSAGE_BYTES, 2 * config.max_images_per_request * IMAGE_BYTES)),
        # One connection can never take all the calls that `max_calls` admits.
        ("grpc.max_concurrent_streams", min(512, max(1, config.max_calls // 4))),
        # Without this a second server on the same port would start and share the connections unseen.
        ("grpc.so_reuseport", 0),
    ]


def _bind(server: grpc.aio.Server, config: ServeConfig) -> int:
    address = f"{config.host}:{config.port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {address}: the port is in use or the address is not this machine's; "
            "choose another --port (0 takes a free one) or --host"
        ) from error


def _describe(bundle: Bundle, selection: Selection, config: ServeConfig, max_batch: int) -> digits_pb2.Model:
    manifest = bundle.manifest
    return digits_pb2.Model(
        name=manifest.name,
        version=manifest.version,
        architecture=manifest.architecture,
        labels=manifest.labels,
        max_batch_size=max_batch,
        max_images_per_request=config.max_images_per_request,
        sha256=manifest.files[selection.file].sha256,
        accuracy=selection.accuracy,
    )
