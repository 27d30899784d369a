"""A front end: gRPC, and models whose engines are in the owner's process."""

import asyncio
import dataclasses
import math
from typing import Any

from serve.config import ServeConfig
from serve.frontends.link import Link, ring_bytes
from serve.frontends.remote import Remote, RemoteModel
from serve.model import Description
from serve.models import Loads, Models
from serve.pictures import Pictures
from serve.rpc.arrival import Arrivals
from serve.rpc.server import RpcServer
from serve.rpc.telemetry import Telemetry


class Frontend:
    """Lifecycle: construct, `start`, `stop`; meanwhile `link` and `unlink` as owners come and go. On one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._models: Models[RemoteModel] = Models(default=config.default_model)
        self._remote = Remote(ring_bytes(config), self._on_state)
        # The metrics are the owner's, who is told of every call.
        self._telemetry = Telemetry(config, None if config.metrics_port is None else self._remote.count_call)
        control = self._remote if config.model_control else None
        # Every front end takes its share.
        calls, pending, connections = config.max_calls, config.max_pending_calls, config.max_connections
        share = dataclasses.replace(
            config,
            max_calls=math.ceil(calls / config.frontends),
            max_pending_calls=pending and math.ceil(pending / config.frontends),
            max_connections=connections and math.ceil(connections / config.frontends),
            picture_workers=math.ceil(config.picture_workers / config.frontends),
        )
        self._pictures = Pictures(share, self._remote.count_picture)
        self._rpc = RpcServer(
            share, self._models, control, self._telemetry.observers, Arrivals(), self._pictures, shares_port=True
        )
        self._served = asyncio.Event()
        self._draining = False

    async def start(self) -> None:
        """Accept calls; done when there are models to answer them.

        Raises:
            StartupError: The port cannot be had, or not what is configured for traces.
        """
        await self._telemetry.start()
        await self._rpc.start()
        await self._served.wait()

    def link(self, _: int, link: Link) -> None:
        """Talk to a new owner."""
        self._remote.link(link)

    def unlink(self, _: int) -> None:
        """The owner is lost."""
        self._remote.unlink()

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Refuse what is new, and answer what was accepted; setting `hurry` ends that at once."""
        self._draining = True
        self._report_all_lost()
        # Pictures first: what is read of them is still to be classified.
        drained = await self._pictures.drain(hurry)
        drained = await self._remote.drain(hurry) and drained
        await self._pictures.close()
        # The answers are there; handlers need a moment to send them.
        await self._rpc.stop(1.0)
        await self._telemetry.stop()
        return drained

    def _on_state(self, state: Any) -> None:
        if state is None:
            self._report_all_lost()
            return
        served = []
        for each in state["models"]:
            description = Description(**each["description"])
            served.append(
                RemoteModel(
                    description,
                    each["number"],
                    each["refusal"],
                    self._remote,
                    max_deadline_s=self._config.max_deadline_s,
                )
            )
        self._models.replace(served, {name: Loads(**loads) for name, loads in state["loads"].items()})
        if not self._draining:
            self._rpc.report(state["health"])
        self._served.set()

    def _report_all_lost(self) -> None:
        self._rpc.report({model.description.name: False for model in self._models} | {"": False})
