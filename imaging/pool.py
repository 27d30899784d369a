"""Reads pictures that strangers send, in processes of their own, so that no picture can hurt whoever asks.

    pool = Pool(workers=2, max_pictures=64, max_picture_s=5.0)
    [digits] = await pool.read([picture])
    await pool.close()

Each process is a `imaging.worker` and reads one picture at a time. It is started when there is a picture for it, and
replaced when it takes too long or dies.
"""

import asyncio
import math
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self, TypeAlias

from imaging.digit import Digit
from imaging.errors import PictureError, PoolFull, WorkerLost
from imaging.messages import (
    DIGITS,
    FAILED,
    MAX_REPLY_BYTES,
    MISSING,
    READY,
    REFUSED,
    REPLY,
    REQUEST,
    read_digits,
)

# From its start until it has loaded the libraries, on a slow disk.
_START_S = 30.0

# A worker gets no more of the environment than what the interpreter may need, and computes with one thread.
_KEPT = ("LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}

# What a picture is taken to need before any was read, and the weight of each new one in the mean.
_FIRST_S = 0.05
_WEIGHT = 0.1

Observe: TypeAlias = Callable[[str, float], None]
"""Told of each picture that a worker had: it was "read", "refused" for its content, "too_slow", or reading it "failed";
and how many seconds that took."""


class Pool:
    """Lifecycle: construct, `read` many times, `close`; on one event loop.

    Args:
        workers: Most processes.
        max_pictures: Most pictures under way at once, waiting ones included.
        max_picture_s: Seconds after which a picture is given up.
        observe: Is told of each picture.
    """

    def __init__(
        self,
        *,
        workers: int,
        max_pictures: int,
        max_picture_s: float,
        observe: Observe = lambda _result, _seconds: None,
    ) -> None:
        self._max_pictures = max_pictures
        self._max_picture_s = max_picture_s
        self._observe = observe
        self._workers = workers
        self._turns = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._readings: set[asyncio.Task[tuple[Digit, ...]]] = set()
        self._under_way = 0
        self._mean_s = _FIRST_S
        self._missing = ""
        self._closed = False

    async def read(self, pictures: Sequence[bytes], *, many: bool = False) -> list[tuple[Digit, ...]]:
        """The digits in each picture. Cancelling it leaves the pictures that wait unread.

        Args:
            pictures: As `imaging.read` takes them.
            many: Whether each may hold several digits, or none.

        Raises:
            PictureError: A picture cannot be read, or not in time; the message says which, and why.
            PoolFull: There is no room for so many.
            WorkerLost: A picture's process has ended, or failed.
            ModuleNotFoundError: Pillow or OpenCV is not installed.
        """
        if self._under_way + len(pictures) > self._max_pictures:
            raise PoolFull(
                f"{self._under_way} pictures wait, and {self._max_pictures} may; try again later or elsewhere",
                retry_after_s=self._under_way * self._mean_s / self._workers,
            )
        self._under_way += len(pictures)
        # Which one it was need only be said where there are several.
        names = [f"picture {index}: " for index in range(len(pictures))] if len(pictures) > 1 else [""]
        readings = [
            asyncio.ensure_future(self._read(name, each, many)) for name, each in zip(names, pictures, strict=False)
        ]
        try:
            return await asyncio.gather(*readings)
        finally:
            # What a reading raises keeps this frame. That must not keep the reading, or the pictures stay with both.
            while readings:
                readings.pop().cancel()
            self._under_way -= len(pictures)

    async def close(self) -> None:
        """End the processes; whoever still waits for a picture gets `WorkerLost`."""
        self._closed = True
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*self._readings, *(worker.kill() for worker in self._idle), return_exceptions=True)
        self._idle.clear()

    async def _read(self, name: str, picture: bytes, many: bool) -> tuple[Digit, ...]:
        await self._turns.acquire()
        # The turn lasts until the worker is done, whoever has left by then: it cannot be stopped half-way.
        reading = asyncio.ensure_future(self._take_turn(picture, many))
        self._readings.add(reading)
        reading.add_done_callback(self._end_turn)
        try:
            return await asyncio.shield(reading)
        except PictureError as error:
            raise PictureError(f"{name}{error}") from error
        except asyncio.CancelledError:
            if self._closed:
                raise WorkerLost("the pool was closed") from None
            raise
        finally:
            del reading  # as above

    def _end_turn(self, reading: "asyncio.Task[tuple[Digit, ...]]") -> None:
        self._readings.discard(reading)
        self._turns.release()
        if not reading.cancelled():
            reading.exception()  # its caller may have left

    async def _take_turn(self, picture: bytes, many: bool) -> tuple[Digit, ...]:
        worker = await self._worker()
        started = time.perf_counter()
        result = "failed"
        try:
            async with asyncio.timeout(self._max_picture_s):
                digits = await worker.read(picture, many)
            result = "read"
            return digits
        except PictureError:
            result = "refused"
            raise
        except TimeoutError:
            result = "too_slow"
            raise PictureError(f"was not read within {self._max_picture_s:g} s; scale it down") from None
        finally:
            seconds = time.perf_counter() - started
            self._mean_s += _WEIGHT * (seconds - self._mean_s)
            self._observe(result, seconds)
            if result in ("read", "refused"):
                self._idle.append(worker)
            else:
                await worker.kill()

    async def _worker(self) -> "_Worker":
        """One that has nothing to do: the one that was busy last, so that few are kept warm; or a new one."""
        while self._idle:
            if (worker := self._idle.pop()).is_alive:
                return worker
            await worker.kill()
        if self._closed:
            raise WorkerLost("the pool was closed")
        if self._missing:
            raise ModuleNotFoundError(f"{self._missing} is not installed", name=self._missing)
        try:
            return await _Worker.start(self._max_picture_s)
        except ModuleNotFoundError as error:
            # It will not be there the next time either.
            self._missing = str(error.name)
            raise


class _Worker:
    """One process, and the line to it."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", replies: asyncio.StreamReader, requests: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._replies = replies
        self._requests = requests

    @classmethod
    async def start(cls, max_picture_s: float) -> Self:
        """Start a process; done when it is ready.

        Raises:
            ModuleNotFoundError: What it needs is not installed.
            WorkerLost: It cannot be started.
        """
        words = [sys.executable, "-m", "imaging.worker", str(math.ceil(max_picture_s) + 1)]
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = _spawn(words, theirs.fileno())
        except OSError as error:
            ours.close()
            raise WorkerLost(f"no process can be started to read pictures: {error.strerror}") from error
        worker = cls(process, *await asyncio.open_unix_connection(sock=ours))
        try:
            async with asyncio.timeout(_START_S):
                kind, body = await worker._receive()
            if kind == MISSING:
                raise ModuleNotFoundError(f"{body.decode()} is not installed", name=body.decode())
            if kind != READY:
                raise WorkerLost(f"a process that reads pictures cannot begin: {body.decode(errors='replace')}")
            return worker
        except TimeoutError:
            await worker.kill()
            raise WorkerLost(f"a process that reads pictures was not ready within {_START_S:g} s") from None
        except BaseException:
            await worker.kill()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it is not known to have ended."""
        return self._process.poll() is None

    async def read(self, picture: bytes, many: bool) -> tuple[Digit, ...]:
        """The digits in a picture.

        Raises:
            PictureError: There are none to be had.
            WorkerLost: The process has ended, or failed.
        """
        if not self._requests.is_closing():  # else it has ended: it will not reply
            with suppress(OSError):  # likewise
                self._requests.writelines((REQUEST.pack(len(picture), many), picture))
                await self._requests.drain()
        kind, body = await self._receive()
        if kind == REFUSED:
            raise PictureError(body.decode(errors="replace"))
        if kind == FAILED:
            raise WorkerLost(f"reading a picture failed: {body.decode(errors='replace')}")
        try:
            if kind != DIGITS:
                raise ValueError(f"a message of kind {kind}")
            return read_digits(body)
        except (ValueError, struct.error) as error:
            raise WorkerLost(f"a process that reads pictures sent no reply: {error}") from error

    async def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._requests.close()
        await self._ended()

    async def _receive(self) -> tuple[int, bytes]:
        try:
            kind, size = REPLY.unpack(await self._replies.readexactly(REPLY.size))
            if size > MAX_REPLY_BYTES:
                raise WorkerLost(f"a process that reads pictures sent {size} bytes")
            return kind, await self._replies.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            status = await self._ended()
            raise WorkerLost(f"a process that reads pictures ended with status {status}") from None

    async def _ended(self) -> int:
        """Wait until it has; its exit status."""
        return await asyncio.to_thread(self._process.wait)


def _spawn(words: list[str], line: int) -> "subprocess.Popen[bytes]":
    """Start a program with a line for its input and output, in a millisecond.

    Not by asyncio, for which uvloop makes a plain fork: that runs gRPC's fork handlers in the child, where they may
    wait for ever for a lock of a thread that is not there.
    """
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _ONE_THREAD
    # Ctrl-C would reach every process of a terminal's session; and with what libraries print of pictures, callers could
    # fill the disk.
    return subprocess.Popen(
        words, stdin=line, stdout=line, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
