"""The process that starts the others, starts again what dies, and ends them all. It does nothing else.

A front end is linked to the owner when both are there, and by a new link when one of the two is new.
"""

import asyncio
import functools
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from serve.config import ServeConfig
from serve.errors import StartupError
from serve.frontends.control import Control, socket_pair
from serve.frontends.link import Link
from serve.settings import to_toml
from serve.waiting import wait_unless

log = logging.getLogger(__name__)

# A process that lived shorter is started again after a pause, which doubles each time.
_SHORT_S = 10.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

# More than a process takes to end that is told to hurry.
_KILL_AFTER_S = 5.0


class Child:
    """One process of the server, and the line to it.

    Attributes:
        name: For people.
        ready: Done once the process is ready; a `StartupError` if it ends before that.
    """

    def __init__(self, name: str, on_message: Callable[[dict[str, Any]], None]) -> None:
        self.name = name
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message

    async def start(self, settings: dict[str, Any]) -> None:
        """Start the process.

        Raises:
            StartupError: The system has no process, no memory or no file left for it.
        """
        try:
            ours, theirs = socket_pair()
            with theirs, ExitStack() as failed:
                failed.callback(ours.close)
                words = [sys.executable, "-m", "serve.frontends.worker", str(theirs.fileno())]
                # Ctrl-C reaches every process of a terminal's session; only the supervisor knows in which order to end.
                self._process = await asyncio.create_subprocess_exec(
                    *words, pass_fds=[theirs.fileno()], start_new_session=True
                )
                failed.pop_all()
        except OSError as error:
            raise StartupError(f"{self.name} cannot be started: {error.strerror}") from error
        self._control = Control(ours, on_message=self._receive, on_end=lambda: None)
        self.send(settings)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Tell the process something."""
        self._control.send(message, fds)

    async def wait(self) -> int:
        """Wait until the process has ended; its exit status."""
        status = await self._process.wait()
        self._control.close()
        self._fail(f"{self.name} ended with status {status} before it was ready")
        return status

    def kill(self) -> None:
        """End the process at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def _receive(self, message: dict[str, Any], _: Sequence[int]) -> None:
        match message:
            case {"error": reason}:
                self._fail(reason)
            case {"ready": _} if not self.ready.done():
                self.ready.set_result(None)
            case _:
                self._on_message(message)

    def _fail(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(StartupError(reason))
            self.ready.exception()  # there may be nobody who waits for it


class Supervisor:
    """Lifecycle: construct, `start`, `stop`; once each, on one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._owner: Child | None = None
        self._frontends: dict[int, Child] = {}
        self._kept: list[asyncio.Task[int]] = []
        self._stop = asyncio.Event()

    async def start(self) -> int:
        """Start every process.

        Returns:
            The port.

        Raises:
            StartupError: A process cannot start. Nothing is left running.
        """
        self._reserved = _reserve(self._config)
        self._port = int(self._reserved.getsockname()[1])
        try:
            await self._keep(self._start_owner, self._lose_owner)
            await asyncio.gather(*(self._keep_frontend(index) for index in range(self._config.frontends)))
        except BaseException:
            await self.stop(asyncio.Event(), grace_s=0.0)
            raise
        return self._port

    async def stop(self, hurry: asyncio.Event, *, grace_s: float | None = None) -> bool:
        """Stop serving, front ends first: what was accepted is answered within the grace.

        Args:
            hurry: Setting it ends the grace at once.
            grace_s: Seconds, instead of those configured.

        Returns:
            Whether every accepted request was answered.
        """
        self._stop.set()
        grace_s = self._config.grace_s if grace_s is None else grace_s
        await _end(list(self._frontends.values()), self._kept[1:], hurry, grace_s)
        await _end([self._owner] if self._owner else [], self._kept[:1], hurry, grace_s)
        self._reserved.close()
        return all(task.result() == 0 for task in self._kept)

    async def _keep(self, start: Callable[[], Awaitable[Child]], on_end: Callable[[], None]) -> None:
        """Have a process from now on; returns when it is ready for the first time."""
        first: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._kept.append(asyncio.create_task(self._repeat(start, on_end, first)))
        # Shielded: they are the process's own, whoever gives up waiting for it.
        await asyncio.shield((await asyncio.shield(first)).ready)

    async def _keep_frontend(self, index: int) -> None:
        await self._keep(functools.partial(self._start_frontend, index), functools.partial(self._lose_frontend, index))

    async def _repeat(
        self, start: Callable[[], Awaitable[Child]], on_end: Callable[[], None], first: "asyncio.Future[Child]"
    ) -> int:
        """The exit status of the last process; 0 where there was none at the end."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            started = loop.time()
            try:
                child = await start()
            except StartupError as error:
                if not first.done():
                    first.set_exception(error)
                    return 0
                reason: object = error
            else:
                if not first.done():
                    first.set_result(child)
                if self._stop.is_set():  # it came too late to be told
                    child.kill()
                status: int = await child.wait()
                on_end()
                if self._stop.is_set() or first.result().ready.exception():
                    return status
                reason = child.ready.exception() or f"{child.name} ended with status {status}"
            pause_s = _FIRST_PAUSE_S if loop.time() - started > _SHORT_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            log.error("%s; it is started again in %.1f s", reason, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)
                return 0

    async def _start_owner(self) -> Child:
        owner = Child("the process with the engines", self._on_owner_message)
        await owner.start({"role": "owner", "config": to_toml(self._config)})
        self._owner = owner
        owner.ready.add_done_callback(lambda _: self._link(*self._frontends))
        return owner

    def _lose_owner(self) -> None:
        self._owner = None
        for frontend in self._frontends.values():
            frontend.send({"unlink": 0})

    async def _start_frontend(self, index: int) -> Child:
        frontend = Child(f"front end {index}", lambda _: None)
        await frontend.start({"role": "frontend", "config": to_toml(self._config), "port": self._port})
        self._frontends[index] = frontend
        self._link(index)
        return frontend

    def _lose_frontend(self, index: int) -> None:
        del self._frontends[index]
        if self._owner:
            self._owner.send({"unlink": index})

    def _link(self, *frontends: int) -> None:
        owner = self._owner
        if owner is None or not owner.ready.done() or owner.ready.exception():
            return
        for index in frontends:
            frontend = self._frontends[index]
            try:
                link = Link.create(self._config)
            except OSError as error:
                log.error("%s cannot be linked: %s; it is ended", frontend.name, error.strerror)
                frontend.kill()  # the one that comes in its place gets a link of its own
                continue
            for child in (owner, frontend):
                child.send({"link": index}, link.fds)
            link.close()

    def _on_owner_message(self, message: dict[str, Any]) -> None:
        if (frontend := self._frontends.get(message.get("stuck", -1))) is not None:
            log.error("%s does not read its answers; it is ended", frontend.name)
            frontend.kill()


async def _end(children: list[Child], tasks: "list[asyncio.Task[int]]", hurry: asyncio.Event, grace_s: float) -> None:
    if not tasks:
        return
    for child in children:
        child.send({"stop": True})
    ended = asyncio.ensure_future(asyncio.wait(tasks))
    await wait_unless(hurry, ended, timeout_s=grace_s)
    for child in children:
        child.send({"hurry": True})
    await asyncio.wait({ended}, timeout=_KILL_AFTER_S)
    for child in children:
        child.kill()
    await ended


def _reserve(config: ServeConfig) -> socket.socket:
    """A port that front ends may share and that nobody else listens on; it stays reserved while the socket is open."""
    host = config.host.strip("[]")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # A socket that does not share shows whether another server is there.
        with socket.socket(family, kind) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            port = alone.getsockname()[1]
        reserved = socket.socket(family, kind)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((address[0], port, *address[2:]))
    except OSError as error:
        raise StartupError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another --port or --host"
        ) from error
    return reserved
