"""What answers, without a transport: the models, kept in line with what lies on the disk, and their metrics."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from serve.batcher import Batcher
from serve.config import ServeConfig
from serve.engines.tuning import Tuner
from serve.loader import Loader
from serve.local_model import LocalModel
from serve.models import ModelControl, Models
from serve.telemetry import Telemetry

log = logging.getLogger(__name__)


async def _at_once() -> None:
    """Nobody else has to learn what has changed."""


class Backend:
    """Lifecycle: construct, `start`, `stop`; the last two once each, on one event loop.

    Args:
        config: The configuration.
        on_change: Called when something is served that was not, or no longer, or has failed.
        settled: Waits until nobody finds a model any more that is served no longer.

    Attributes:
        models: What is served.
        telemetry: What operators see.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        on_change: Callable[[], None],
        settled: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        self.models: Models[LocalModel] = Models(default=config.default_model)
        self.telemetry = Telemetry(config, self.models)
        self._config = config
        self._on_change = on_change
        open_model = functools.partial(
            LocalModel.open,
            config=config,
            on_failure=on_change,
            observer=self.telemetry.batch_observer,
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
        await self.telemetry.start()
        try:
            await self._loader.start()
        except BaseException:
            await asyncio.gather(*(model.batcher.abort() for model in self._loader.close()))
            await self.telemetry.stop()
            raise
        self._ready = True
        self._on_change()

    def health(self) -> dict[str, bool]:
        """Whether each model serves, by name; and under "" whether all do.

        Where an engine has died the process must be started anew, which is for those who watch it to decide.
        """
        healthy: dict[str, bool] = {}
        for model in self.models:
            name = model.description.name
            healthy[name] = healthy.get(name, self._ready) and not model.batcher.failed
        return healthy | {"": bool(healthy) and all(healthy.values())}

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Accept nothing new; what was accepted is answered within the configured grace.

        Args:
            hurry: Setting it ends the grace at once.

        Returns:
            Whether every accepted request was answered.
        """
        self._ready = False
        self._on_change()
        batchers = [model.batcher for model in self._loader.close()]
        drain, hurried = asyncio.ensure_future(_drain(batchers)), asyncio.ensure_future(hurry.wait())
        await asyncio.wait({drain, hurried}, timeout=self._config.grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        unanswered = 0
        if not drain.done():
            drain.cancel()
            unanswered = sum(await asyncio.gather(*(batcher.abort() for batcher in batchers)))
            log.warning("stopped with %d requests unanswered", unanswered)
        return not unanswered and not any(batcher.failed for batcher in batchers)


async def _drain(batchers: list[Batcher]) -> None:
    await asyncio.gather(*(batcher.drain() for batcher in batchers))
