"""What operators get to know of the requests: metrics, traces and the access log, as far as they are configured."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import ModuleType

from serve.batcher import BatchObserver
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.exposition import Exposition
from serve.local_model import LocalModel
from serve.metrics import Metrics
from serve.models import Models
from serve.rpc.access_log import AccessLog
from serve.rpc.calls import Call

log = logging.getLogger(__name__)


class Telemetry:
    """Lifecycle: construct, `start` before the first request, `stop` after the last.

    Args:
        config: The configuration.
        models: What is served; read at every scrape.

    Attributes:
        call_observers: See every request that ends.
        metrics_port: Where Prometheus scrapes; None where that is not configured, or before the start.
    """

    def __init__(self, config: ServeConfig, models: Models[LocalModel]) -> None:
        self._config = config
        self._metrics = None if config.metrics_port is None else Metrics(models)
        self._started = AsyncExitStack()
        self.call_observers: list[Callable[[Call], None]] = [AccessLog(config.access_log).observe_call]
        self.metrics_port: int | None = None

    def batch_observer(self, name: str, version: str) -> BatchObserver:
        """What sees the batcher of a model."""
        return self._metrics.of(name, version) if self._metrics else BatchObserver()

    def count_call(self, method: str, name: str, version: str, code: str, reason: str, seconds: float) -> None:
        """A request that another process answered has ended."""
        if self._metrics:
            self._metrics.count_call(method, name, version, code, reason, seconds)

    async def start(self) -> None:
        """Start what is configured.

        Raises:
            StartupError: Something of it cannot be had. Nothing is left running.
        """
        config = self._config
        if config.otel_endpoint:
            traces = _import_traces().Traces(config.otel_endpoint)
            self._started.push_async_callback(traces.close)
            self.call_observers.append(traces.observe_call)
        if self._metrics:
            exposition = Exposition(self._metrics.registry(), config.metrics_host, config.metrics_port or 0)
            try:
                self.metrics_port = await asyncio.to_thread(exposition.start)
            except BaseException:
                await self.stop()
                raise
            self._started.push_async_callback(asyncio.to_thread, exposition.stop)
            self.call_observers.append(self._metrics.observe_call)
            log.info("metrics at http://%s:%d/metrics", config.metrics_host, self.metrics_port)

    async def stop(self) -> None:
        """Stop what was started; the last spans are sent."""
        await self._started.aclose()


def _import_traces() -> ModuleType:
    """What sends spans; it comes with an extra that may not be installed."""
    try:
        from serve import traces
    except ModuleNotFoundError as error:
        raise StartupError(
            f"--otel-endpoint is given, but {error.name} is not installed; `pip install '.[otel]'` brings it"
        ) from error
    return traces
