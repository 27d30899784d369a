"""The processes that drive the load, and the server that does nothing, over pipes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from clients.errors import DigitError

# One line of a worker holds three histograms of some kilobytes each.
_LONGEST_LINE = 1 << 24


class Worker:
    """A process of `worker`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    def order(self, order: dict[str, Any]) -> None:
        """Begin a measurement."""
        self._write(json.dumps(order, default=str))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def read(self) -> str:
        """The next window.

        Raises:
            DigitError: The process has died.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise DigitError("a process that drives the load has died; what it said is above")
        return line.decode().strip()

    async def end(self, word: str, patience_s: float) -> list[str]:
        """End the measurement; what it tells from now on.

        Raises:
            DigitError: The process has died, or does not end the measurement.
        """
        self._write(word)
        lines = []
        try:
            async with asyncio.timeout(patience_s):
                while line := await self.read():
                    lines.append(line)
        except TimeoutError:
            raise DigitError(f"a process that drives the load did not end within {patience_s:g} s") from None
        return lines


@contextlib.asynccontextmanager
async def workers(number: int) -> AsyncIterator[list[Worker]]:
    """So many of them, ready for orders; ended on leaving."""
    async with contextlib.AsyncExitStack() as stack:
        started = [Worker(await stack.enter_async_context(_module("worker"))) for _ in range(number)]
        await asyncio.gather(*(worker.read() for worker in started))
        yield started


@contextlib.asynccontextmanager
async def null_server(answer: bytes) -> AsyncIterator[str]:
    """Address of a server that gives this answer to everything.

    Raises:
        DigitError: It did not start.
    """
    async with _module("null_server") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(answer.hex().encode() + b"\n")
        words = (await process.stdout.readline()).split()
        if words[:1] != [b"ready"]:
            raise DigitError("the server that does nothing did not start; --floor-s 0 does without")
        yield words[1].decode()


@contextlib.asynccontextmanager
async def _module(name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """One of this package's programs, ended on leaving."""
    # Ctrl-C reaches every process of a terminal. These inherit deafness to it: they are told over their pipes.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"clients.benchmark.{name}"),
            # That a server which is done with goes away is nothing to tell people.
            env={"GRPC_VERBOSITY": "ERROR"} | os.environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
    finally:
        signal.signal(signal.SIGINT, heard)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
