"""What answers, without a transport: the models, kept in line with what lies on the disk, and their metrics."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from serve.batcher import Batcher, BatchObserver
from serve.config import ServeConfig
from serve.engines.tuning import Tuner
from serve.exposition import Exposition
from serve.loader import Loader
from serve.local_model import LocalModel
from serve.metrics import Metrics
from serve.models import ModelControl, Models
from serve.waiting import wait_unless

log = logging.getLogger(__name__)


async def _at_once() -> None:
    """Nobody else has to learn what has changed."""


class Backend:
    """Lifecycle: construct, `start`, `stop`, `close`; the last three once each, on one event loop.

    Args:
        config: The configuration.
        on_change: Called when something is served that was not, or no longer, or has failed.
        arriving: How many requests are known to be on their way.
        settled: Waits until nobody finds a model any more that is served no longer.

    Attributes:
        models: What is served.
        metrics: What operators see of it; None where that is not configured.
        metrics_port: Where Prometheus scrapes; None before the start, and without metrics.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        on_change: Callable[[], None],
        arriving: Callable[[], int] = lambda: 0,
        settled: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        self.models: Models[LocalModel] = Models(default=config.default_model)
        self.metrics = None if config.metrics_port is None else Metrics(self.models)
        self.metrics_port: int | None = None
        self._exposition: Exposition | None = None
        self._config = config
        self._on_change = on_change
        open_model = functools.partial(
            LocalModel.open,
            config=config,
            on_failure=on_change,
            observer=self._observer,
            arriving=arriving,
            tuner=Tuner(),
        )
        self._loader = Loader(config, self.models, open_model, on_change=on_change, settled=settled)
        self._ready = False

    @property
    def control(self) -> ModelControl | None:
        """Loads and unloads models; None where that is not allowed."""
        return self._loader if self._config.model_control else None

    async def start(self) -> None:
        """Load the models.

        Raises:
            StartupError: Nothing can be served, or not what is configured. Nothing is left running.
        """
        try:
            await self._expose()
            await self._loader.start()
        except BaseException:
            await asyncio.gather(*(model.batcher.abort() for model in self._loader.close()))
            await self.close()
            raise
        self._ready = True
        self._on_change()

    async def _expose(self) -> None:
        config = self._config
        if self.metrics is None or config.metrics_port is None:
            return
        exposition = Exposition(self.metrics.registry(), config.metrics_host, config.metrics_port)
        self.metrics_port = await asyncio.to_thread(exposition.start)
        self._exposition = exposition
        log.info("metrics at http://%s:%d/metrics", config.metrics_host, self.metrics_port)

    def _observer(self, name: str, version: str) -> BatchObserver:
        return self.metrics.of(name, version) if self.metrics else BatchObserver()

    def health(self) -> dict[str, bool]:
        """Whether each model serves, by name; and under "" whether all do.

        Where an engine has died the process must be started anew, which is for those who watch it to decide.
        """
        healthy: dict[str, bool] = {}
        for model in self.models:
            name = model.description.name
            healthy[name] = healthy.get(name, self._ready) and not model.batcher.failed
        return healthy | {"": bool(healthy) and all(healthy.values())}

    def withdraw(self) -> None:
        """Report not ready from now on. Requests that come all the same are answered, until it is stopped."""
        self._ready = False
        self._on_change()

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Accept nothing new; what was accepted is answered.

        Args:
            hurry: Setting it gives up what is not answered by then.

        Returns:
            Whether every accepted request was answered.
        """
        self.withdraw()
        batchers = [model.batcher for model in self._loader.close()]
        drain = asyncio.ensure_future(_drain(batchers))
        unanswered = 0
        if not await wait_unless(hurry, drain):
            drain.cancel()
            unanswered = sum(await asyncio.gather(*(batcher.abort() for batcher in batchers)))
            log.warning("stopped with %d requests unanswered", unanswered)
        return not unanswered and not any(batcher.failed for batcher in batchers)

    async def close(self) -> None:
        """Nobody is told anything any more."""
        if self._exposition is not None:
            await asyncio.to_thread(self._exposition.stop)


async def _drain(batchers: list[Batcher]) -> None:
    await asyncio.gather(*(batcher.drain() for batcher in batchers))
