"""Puts the server together and takes it down again.

Start: bind the port; verify the bundles, open, check and warm up their engines; then report ready.
Stop: report not ready, refuse new requests, answer the accepted ones, close.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

from serve.backend import Backend
from serve.config import ServeConfig
from serve.engines.tuning import Tuner
from serve.errors import StartupError
from serve.frontends.supervisor import Supervisor
from serve.loader import candidates_of, require
from serve.local_model import check_bundle
from serve.pictures import Pictures
from serve.repository import scan
from serve.rpc import tls, token
from serve.rpc.arrival import Arrivals
from serve.rpc.server import RpcServer
from serve.rpc.telemetry import Telemetry, import_traces
from serve.waiting import wait_unless

log = logging.getLogger(__name__)


class Server:
    """Models behind one port, in one process.

    Lifecycle: construct, `start`, `stop`; the last two once each, on one event loop.

    Attributes:
        backend: What answers.
    """

    def __init__(self, config: ServeConfig) -> None:
        arrivals = Arrivals()
        self._grace_s = config.grace_s
        self.backend = Backend(config, on_change=self._report, arriving=lambda: arrivals.count)
        metrics = self.backend.metrics
        self._telemetry = Telemetry(config, metrics.count_call if metrics else None)
        self._pictures = Pictures(config, metrics.count_picture) if metrics else Pictures(config)
        self._rpc = RpcServer(
            config, self.backend.models, self.backend.control, self._telemetry.observers, arrivals, self._pictures
        )

    async def start(self) -> int:
        """Start serving.

        Returns:
            The port.

        Raises:
            StartupError: No bundle, no engine or not the port is usable. Nothing is left running.
        """
        async with AsyncExitStack() as started:
            await self._telemetry.start()
            started.push_async_callback(self._telemetry.stop)
            port = await self._rpc.start()
            started.push_async_callback(self._rpc.stop, None)
            await self.backend.start()
            started.pop_all()
        return port

    async def stop(self, hurry: asyncio.Event | None = None) -> bool:
        """Stop serving: nothing new is accepted, what was accepted is answered within the configured grace.

        Args:
            hurry: Setting it ends the grace at once.

        Returns:
            Whether every accepted request was answered.
        """
        hurry = hurry or asyncio.Event()
        grace = asyncio.get_running_loop().call_later(self._grace_s, hurry.set)
        self.backend.withdraw()
        # Pictures first: what is read of them is still to be classified.
        drained = await self._pictures.drain(hurry)
        drained = await self.backend.stop(hurry) and drained
        grace.cancel()
        await self._pictures.close()
        # The answers are there; handlers need a moment to send them.
        await self._rpc.stop(1.0)
        await self._telemetry.stop()
        await self.backend.close()
        return drained

    def _report(self) -> None:
        self._rpc.report(self.backend.health())


def check(config: ServeConfig) -> Iterator[str]:
    """Whether a server could start with this configuration, and serve everything that lies there, asked for or not.

    Yields:
        For each bundle a line.

    Raises:
        StartupError: It could not start, or not serve some of it; the message says why.
    """
    tls.credentials(config)
    token.interceptors(config)
    import_traces(config)
    errors = []
    names = set()
    tuner = Tuner()
    for folder, sources in scan(config.models).items():
        candidates, _ = candidates_of(config, folder, sources)
        names |= {source.name for source in candidates}
        for source in sources:
            try:
                yield check_bundle(source, config, tuner)
            except StartupError as error:
                errors.append(str(error))
    if errors:
        raise StartupError("; ".join(errors))
    require(config, names)


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
    server = Supervisor(config) if config.frontends else Server(config)
    stop, hurry = asyncio.Event(), asyncio.Event()
    with _signals(lambda: (hurry if stop.is_set() else stop).set()):
        start = asyncio.ensure_future(server.start())
        if not await wait_unless(stop, start):
            log.info("stopped while starting")
            start.cancel()
            await asyncio.wait({start})
            return True
        on_ready(start.result())
        await stop.wait()
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
