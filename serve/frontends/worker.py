"""`python -m serve.frontends.worker FD`: a process that the supervisor has started, at the other end of FD.

It is told what it is, then about links, and in the end to stop.
"""

import asyncio
import dataclasses
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from serve import logs
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.frontends.control import Control
from serve.frontends.link import Link
from serve.runtime import run, settle
from serve.settings import from_toml
from serve.waiting import wait_unless


class Role(Protocol):
    """What a process does."""

    async def start(self) -> None:
        """Begin; done when it is ready. Raises `StartupError`."""

    def link(self, frontend: int, link: Link) -> None:
        """A link between that front end and the owner."""

    def unlink(self, frontend: int) -> None:
        """The process at the other end is lost."""

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Answer what was accepted; whether that was done."""


async def work(end: socket.socket) -> int:
    """The exit status: 0 when every accepted request was answered."""
    return await _Worker(end).run()


class _Worker:
    def __init__(self, end: socket.socket) -> None:
        # Without a supervisor there is nobody to serve for.
        self._control = Control(end, on_message=self._on_message, on_end=lambda: os._exit(1))
        self._told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._links: list[tuple[int, Link]] = []
        self._role: Role | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        settings = await self._told
        try:
            config = from_toml(settings["config"])
            logs.configure(config.log_format, config.log_level)
            self._role = _make(settings, config, self._control)
            for link in self._links:
                self._role.link(*link)
            if not await self._started(self._role):
                return 0
        except StartupError as error:
            self._control.send({"error": str(error)})
            return 1
        settle()
        self._control.send({"ready": True})
        await self._stop.wait()
        return 0 if await self._role.stop(self._hurry) else 1

    async def _started(self, role: Role) -> bool:
        """Start it, unless it is told to stop before it is ready."""
        start = asyncio.ensure_future(role.start())
        if await wait_unless(self._stop, start):
            start.result()
            return True
        start.cancel()
        await asyncio.wait({start})
        return False

    def _on_message(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        match message:
            case {"role": _}:
                self._told.set_result(message)
            case {"link": frontend} if self._role is not None:
                self._role.link(frontend, Link(*fds))
            case {"link": frontend}:
                self._links = [(frontend, Link(*fds))]
            case {"unlink": frontend} if self._role is not None:
                self._role.unlink(frontend)
            case {"stop": _}:
                self._stop.set()
            case {"hurry": _}:
                self._hurry.set()


def _make(settings: dict[str, Any], config: ServeConfig, control: Control) -> Role:
    # Each process imports what it needs, and only that.
    if settings["role"] == "owner":
        from serve.frontends.owner import Owner

        return Owner(config, on_stuck=lambda frontend: control.send({"stuck": frontend}))
    from serve.frontends.frontend import Frontend

    return Frontend(dataclasses.replace(config, port=settings["port"]))


if __name__ == "__main__":
    sys.exit(run(work(socket.socket(fileno=int(sys.argv[1])))))
