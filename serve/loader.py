"""The life of models: brings what is served in line with what lies on the disk.

A version that is new or has changed is loaded, warmed up and checked beside the one that answers, and takes its place
only then; the old one answers what it has accepted, and is closed. What fails is left out, with its reason in the log
and in `Models.loads`, and what was served stays.

No request is lost in between: a servicer finds a model and submits to it within one turn of the event loop, and the
exchange is a turn of its own. So whoever found the old model has been accepted by it before it refuses anything.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from pathlib import Path

from serve.config import ServeConfig
from serve.errors import LoadFailed, StartupError, Unavailable, UnknownModel
from serve.local_model import LocalModel
from serve.models import Models
from serve.repository import Source, choose, scan
from serve.watch import changes

log = logging.getLogger(__name__)

# A reason travels in messages to callers, whose size is limited.
_ERROR_CHARACTERS = 1000


class Loader:
    """Loads one model at a time, which takes memory and cores from those that answer.

    Lifecycle: `start`, then `load`, `unload` and changes on the disk, then `close`; all on one event loop.

    Args:
        config: Where bundles lie, and which of them to serve.
        models: What is served.
        open_model: Reads a model, blocking; not started yet.
        on_change: Called when something is served that was not, or no longer, or when other loads fail than before.
        settled: Waits until nobody finds a model any more that is served no longer.
    """

    def __init__(
        self,
        config: ServeConfig,
        models: Models[LocalModel],
        open_model: Callable[[Source], LocalModel],
        *,
        on_change: Callable[[], None],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._models = models
        self._open = open_model
        self._on_change = on_change
        self._settled = settled
        self._lock = asyncio.Lock()
        # By the name of the folder in the repository, which for a bundle by itself is empty.
        self._served: dict[str, list[LocalModel]] = {}
        self._unloaded: set[str] = set()
        # What is not tried again until it changes, and why.
        self._failed: dict[Path, tuple[Source, str]] = {}
        self._retiring: dict[LocalModel, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Load what there is.

        Raises:
            StartupError: Nothing of it can be served, or not the default model.
        """
        await self._refresh()
        if self._failed and not any(self._models):
            raise StartupError("; ".join(reason for _, reason in self._failed.values()))
        require(self._config, {model.description.name for model in self._models})
        self._models.starting = False
        if self._config.watch:
            self._watching = asyncio.create_task(self._watch())

    async def load(self, name: str) -> None:
        """Serve what lies on the disk under a name, from now on; what is served unchanged already stays as it is.

        Raises:
            UnknownModel: Nothing lies there.
            LoadFailed: It cannot be served; what was served before still is.
        """
        async with self._lock:
            try:
                found = await self._scan()
            except StartupError as unreadable:
                raise LoadFailed(str(unreadable)[:_ERROR_CHARACTERS]) from unreadable
            folder = next(
                (folder for folder, sources in found.items() if name in {source.name for source in sources}), None
            )
            if folder is None:
                known = ", ".join(sorted({source.name for sources in found.values() for source in sources}))
                raise UnknownModel(f"there is no model {name!r:.80} to load; there is {known[:400] or 'none'}")
            self._unloaded.discard(folder)
            for source in found[folder]:  # who asks again wants all of it tried again
                self._failed.pop(source.path, None)
            if error := await self._bring(folder, found[folder]):
                raise LoadFailed(error)
            if folder not in self._served:
                there = ", ".join(source.version for source in found[folder])[:400]
                raise LoadFailed(f"--versions is {self._config.versions}; of {name!r} there is {there}")

    async def unload(self, name: str) -> None:
        """Serve no version of a model until it is loaded again; returns when all that was accepted is answered.

        Raises:
            UnknownModel: It is not served.
        """
        async with self._lock:
            folder = next((folder for folder, models in self._served.items() if _is_among(name, models)), None)
            if folder is None:
                raise UnknownModel(f"model {name!r:.80} is not served here")
            self._unloaded.add(folder)
            closing = self._retire(self._served.pop(folder))
        await asyncio.wait(closing)

    def close(self) -> list[LocalModel]:
        """Change nothing any more.

        Returns:
            All models that may have requests to answer; they are the caller's to drain.
        """
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        return [*self._models, *self._retiring]

    async def _watch(self) -> None:
        try:
            async with aclosing(changes(self._config.models)) as looks:
                async for _ in looks:
                    await self._refresh()
        except Exception:  # the task's outer edge
            log.exception("changes on the disk are no longer noticed; what is served stays")

    async def _refresh(self) -> None:
        async with self._lock:
            try:
                found = await self._scan()
            except StartupError as error:
                if self._models.starting:
                    raise
                for models in self._served.values():
                    self._note(models[0].description.name, [str(error)])
                log.error("%s; what is served stays", error)
                return
            for folder in sorted(found.keys() - self._unloaded):
                await self._bring(folder, found[folder])
            for folder in self._served.keys() - found.keys():
                self._retire(self._served.pop(folder))
            there = {source.name for sources in found.values() for source in sources}
            for name in self._models.loads.keys() - there - {model.description.name for model in self._models}:
                self._note(name, [])

    async def _scan(self) -> dict[str, list[Source]]:
        found = await asyncio.to_thread(scan, self._config.models)
        paths = {source.path for sources in found.values() for source in sources}
        self._failed = {path: failure for path, failure in self._failed.items() if path in paths}
        return found

    async def _bring(self, folder: str, sources: list[Source]) -> str:
        """Serve of one model the versions that the policy asks for, as far as they can be.

        Returns:
            Why some cannot; empty if all can, or none are asked for.
        """
        candidates, wanted = candidates_of(self._config, folder, sources)
        kept: list[LocalModel] = []
        errors: list[str] = []
        name = self._name(folder, sources[0])
        for source in candidates:
            if len(kept) == wanted:
                break
            # Of a path that a load was given up at there may be two; the newer comes first.
            served = self._served.get(folder, [])
            current = next((model for model in served if model.source.path == source.path), None)
            if current is None or current.source != source or current.batcher.failed:
                try:
                    current = await self._load(folder, source)
                except StartupError as error:
                    errors.append(str(error))
            if current is not None:
                kept.append(current)
        if not candidates:
            self._retire(self._served.pop(folder, []))
        elif kept:  # else nothing of it can be served, and what was stays
            replaced = [model for model in self._served[folder] if model not in kept]
            self._served[folder] = kept
            self._retire(replaced)
        return self._note(name, errors)

    def _name(self, folder: str, source: Source) -> str:
        """The name of a model that callers know; a bundle by itself may have got another one that cannot be served."""
        return self._served[folder][0].description.name if folder in self._served else source.name

    async def _load(self, folder: str, source: Source) -> LocalModel:
        tried, reason = self._failed.get(source.path, (None, ""))
        if tried == source:
            raise StartupError(reason)
        try:
            model = await asyncio.to_thread(self._open, source)
            await model.start()
        except StartupError as error:
            log.error("%s; it is not served", error)
            self._failed[source.path] = source, str(error)
            self._models.loads[self._name(folder, source)].failed += 1
            raise
        if self._closed:
            await model.batcher.drain()
            raise Unavailable("the server is draining")
        self._failed.pop(source.path, None)
        self._models.loads[model.description.name].succeeded += 1
        self._served.setdefault(folder, []).insert(0, model)
        self._models.put(model)
        self._on_change()
        log.info("serving %s", model)
        return model

    def _note(self, name: str, errors: list[str]) -> str:
        """Keep what is wrong with a model, for callers: without the path that only the server's own people know."""
        text = "; ".join(errors).replace(f"{self._config.models}/", "")[:_ERROR_CHARACTERS]
        if text != self._models.loads[name].last_error:
            self._models.loads[name].last_error = text
            self._on_change()
        return text

    def _retire(self, models: Iterable[LocalModel]) -> list[asyncio.Task[None]]:
        """Serve some models no longer, and close each when it has answered what it has accepted."""
        closing = []
        for model in models:
            self._models.remove(model)
            self._retiring[model] = asyncio.create_task(self._close(model))
            closing.append(self._retiring[model])
        if closing:
            self._on_change()
        return closing

    async def _close(self, model: LocalModel) -> None:
        await self._settled()
        await model.batcher.drain()
        del self._retiring[model]
        log.info("closed %s", model)


def candidates_of(config: ServeConfig, folder: str, sources: Iterable[Source]) -> tuple[list[Source], int]:
    """Which versions of a model to serve, as `choose` says; a bundle by itself is served whatever the policy."""
    return choose(config.versions if folder else "all", sources)


def require(config: ServeConfig, names: Collection[str]) -> None:
    """Check that the models that can be served are enough for a server.

    Raises:
        StartupError: There is none, or not the default.
    """
    if not names:
        raise StartupError(f"--versions {config.versions}: {config.models} has none of them")
    default = config.default_model
    if default is not None and default not in names:
        raise StartupError(f"--default-model is {default!r}; one of {', '.join(sorted(names))} was expected")


def _is_among(name: str, models: Iterable[LocalModel]) -> bool:
    return name in {model.description.name for model in models}
