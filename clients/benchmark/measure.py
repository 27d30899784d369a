"""Orders the processes that drive the load, and puts together what they tell."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clients.benchmark import resources, slo
from clients.benchmark.calls import Statistics, Target, read_statistics
from clients.benchmark.document import Goodput, Level, ServerSplit, WindowResult
from clients.benchmark.options import Options
from clients.benchmark.percentiles import PERCENTILES, needed
from clients.benchmark.recording import Window
from clients.benchmark.resources import GpuUsage, Meter, Usage
from clients.benchmark.slo import Slo
from clients.benchmark.stability import is_stable
from clients.errors import DigitError

# Between the order and the first request: processes connect meanwhile.
_LEAD_S = 0.3

# A search for the highest rate starts at what so many callers get in the closed loop.
_SEARCH_CALLERS = 64

# What is waited for once a worker has been told to stop, beyond the deadline of what is under way.
_PATIENCE_S = 30.0

# One line of a worker holds five histograms of some kilobytes each.
_LONGEST_LINE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Order:
    """One measurement.

    Attributes:
        address: Of the server.
        callers: Closed loop: requests under way.
        rate_per_s: Open loop: requests due in a second.
        warmup_s: Seconds before the first window.
        window_s: Length of a window.
        windows: How many there are at least.
        longest_s: Seconds after which it ends in any case.
    """

    address: str
    callers: int | None = None
    rate_per_s: float | None = None
    warmup_s: float
    window_s: float
    windows: int
    longest_s: float


@dataclass(kw_only=True)
class Findings:
    """What has been measured so far.

    Attributes:
        floor: The load generator itself.
        levels: The server.
        highest_rate_per_s: The search's result.
        interrupted: Whether it was ended by the user.
    """

    floor: list[Level] = dataclasses.field(default_factory=list)
    levels: list[Level] = dataclasses.field(default_factory=list)
    highest_rate_per_s: float | None = None
    interrupted: bool = False


async def run(options: Options, target: Target, tell: Callable[[str], None]) -> Findings:
    """Measures everything that was asked for. Ctrl-C ends it early; a second one at once.

    Args:
        options: What to measure.
        target: What to send.
        tell: Says what is being done.

    Raises:
        DigitError: A process of its own has failed.
    """
    findings, interrupt = Findings(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, _interrupt, interrupt)
    try:
        async with _workers(options) as workers:
            run = _Run(options, target, workers, interrupt, tell)
            async for _ in run.everything(findings):
                if interrupt.is_set():
                    break
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    findings.interrupted = interrupt.is_set()
    return findings


def _interrupt(interrupt: asyncio.Event) -> None:
    if interrupt.is_set():
        raise KeyboardInterrupt
    interrupt.set()


class _Run:
    def __init__(
        self,
        options: Options,
        target: Target,
        workers: "list[_Worker]",
        interrupt: asyncio.Event,
        tell: Callable[[str], None],
    ) -> None:
        self._options = options
        self._target = target
        self._workers = workers
        self._interrupt = interrupt
        self._tell = tell
        self._tls = options.access.tls()
        self._token = options.access.token()
        self._pids = resources.server_pids(options.address, options.server_pid)

    async def everything(self, findings: Findings) -> AsyncIterator[None]:
        """One measurement after another; may be left between any two."""
        options = self._options
        if options.floor_s:
            async with _null_server(self._target.answer) as address:
                for callers in sorted({1, max(options.callers, default=_SEARCH_CALLERS)}):
                    findings.floor.append(await self._floor(address, callers))
                    yield
        for callers in options.callers:
            findings.levels.append(await self._closed(callers))
            yield
        for rate in options.rate:
            findings.levels.append(await self._open(rate))
            yield
        if not options.searches:
            return
        findings.levels.append(await self._closed(_SEARCH_CALLERS))
        yield
        capacity = findings.levels[-1].requests_per_s
        if not capacity:
            return
        search = slo.search(capacity)
        rate = next(search)
        while True:
            findings.levels.append(await self._open(rate))
            yield
            goodput = findings.levels[-1].goodput
            try:
                rate = search.send(goodput is not None and goodput.met is True)
            except StopIteration as end:
                findings.highest_rate_per_s = end.value
                return

    async def _floor(self, address: str, callers: int) -> Level:
        self._tell(f"the load generator itself, {_callers(callers)}, {self._options.floor_s:g} s …")
        order = Order(
            address=address,
            callers=callers,
            warmup_s=min(self._options.warmup_s, self._options.floor_s / 2),
            window_s=self._options.floor_s / 5,
            windows=5,
            longest_s=self._options.floor_s,
        )
        return await self._measure(order)

    async def _closed(self, callers: int) -> Level:
        self._tell(f"{_callers(callers)}, {self._seconds()} …")
        return await self._measure(self._order(callers=callers))

    async def _open(self, rate: float) -> Level:
        self._tell(f"{rate:,.0f} requests a second ({self._options.arrivals}), {self._seconds()} …")
        return await self._measure(self._order(rate_per_s=rate))

    def _seconds(self) -> str:
        options = self._options
        upper = (
            f", at most {options.longest_s:g} s until it is stable" if options.longest_s > options.duration_s else ""
        )
        return f"{options.warmup_s:g} s of warm-up and {options.duration_s:g} s{upper}"

    def _order(self, callers: int | None = None, rate_per_s: float | None = None) -> Order:
        options, windows = self._options, self._options.windows
        if options.objective and rate_per_s:
            # As long as it takes to tell, with some to spare for chance.
            seconds = min(1.2 * needed(options.objective.share) / rate_per_s, options.longest_s)
            windows = max(windows, math.ceil(seconds / options.window_s))
        return Order(
            address=options.address,
            callers=callers,
            rate_per_s=rate_per_s,
            warmup_s=options.warmup_s,
            window_s=options.window_s,
            windows=windows,
            longest_s=options.longest_s,
        )

    async def _measure(self, order: Order) -> Level:
        is_server = order.address == self._options.address
        before = await self._account() if is_server else (None, {})
        start = time.monotonic() + _LEAD_S
        for number, worker in enumerate(self._workers):
            worker.order(self._share(order, number, start))
        async with resources.watch_gpus() as gpus:
            # Usage is counted from the end of the warm-up.
            await _sleep(start + order.warmup_s - time.monotonic(), unless=self._interrupt)
            client, server = Meter([worker.pid for worker in self._workers]), Meter(self._pids)
            windows, stable = await self._windows(order)
            used = client.read(), server.read() if is_server else None
        after = await self._account() if is_server else (None, {})
        return self._level(order, windows, stable, used, gpus, before, after)

    def _share(self, order: Order, number: int, start: float) -> dict[str, Any]:
        """What one of the processes is to do."""
        options, shares = self._options, len(self._workers)
        due = None
        if order.rate_per_s is not None:
            due = {
                "arrivals": options.arrivals,
                "rate_per_s": order.rate_per_s,
                "share": number,
                "shares": shares,
                "seed": options.seed,
            }
        encrypted = self._tls is not None and order.address == options.address
        return {
            "address": order.address,
            "tls": dataclasses.asdict(self._tls) if encrypted and self._tls else None,
            "token": self._token,
            "path": self._target.path,
            "protocol": self._target.protocol,
            "request": base64.b64encode(self._target.request).decode(),
            "images": options.images,
            "callers": _part(order.callers or 0, number, shares),
            "due": due,
            "streams": _part(options.streams, number, shares),
            "start": start,
            "warmup_s": order.warmup_s,
            "window_s": order.window_s,
            "timeout_s": options.timeout_s,
        }

    async def _windows(self, order: Order) -> tuple[list[str], bool]:
        """The windows as the processes tell them, until they are enough, and whether they are stable."""
        options, lines = self._options, list[str]()
        figures: list[tuple[float, float]] = []
        stable = False
        while not self._interrupt.is_set():
            reads = [asyncio.ensure_future(worker.read()) for worker in self._workers]
            told = asyncio.gather(*reads)
            interrupted = asyncio.ensure_future(self._interrupt.wait())
            await asyncio.wait((told, interrupted), return_when=asyncio.FIRST_COMPLETED)
            interrupted.cancel()
            if not told.done():
                lines += [read.result() for read in reads if read.done()]
                told.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await told
                break
            lines += told.result()
            figures.append(_figures(Window.merged(told.result()), order))
            stable = is_stable(figures, count=options.stable_windows, agreement=options.agreement)
            enough = len(figures) >= order.windows and stable
            if enough or (len(figures) + 1) * order.window_s > order.longest_s + 1e-9:
                break
        word = "interrupt" if self._interrupt.is_set() else "stop"
        ended = await asyncio.gather(*(worker.end(word, options.timeout_s + _PATIENCE_S) for worker in self._workers))
        if self._interrupt.is_set():
            lines += [line for each in ended for line in each]
        return lines, stable

    def _level(
        self,
        order: Order,
        lines: Sequence[str],
        stable: bool,
        used: tuple[Usage | None, Usage | None],
        gpus: list[GpuUsage],
        before: "tuple[Statistics | None, dict[str, float]]",
        after: "tuple[Statistics | None, dict[str, float]]",
    ) -> Level:
        options = self._options
        whole = Window.merged(lines)
        by_number: dict[int, list[str]] = {}
        for line in lines:
            by_number.setdefault(json.loads(line)["number"], []).append(line)
        windows = [Window.merged(by_number[number]) for number in sorted(by_number)]
        is_server = order.address == options.address
        is_open = order.rate_per_s is not None
        per_s = whole.finished / whole.seconds if whole.seconds > 0 else 0.0
        return Level(
            loop="open" if is_open else "closed",
            callers=order.callers,
            rate_per_s=order.rate_per_s,
            seconds=whole.seconds,
            due=whole.due,
            answered=whole.latency.count,
            errors=dict(sorted(whole.errors.items())),
            reasons=whole.reasons,
            requests_per_s=per_s,
            images_per_s=per_s * options.images,
            stable=stable,
            interrupted=self._interrupt.is_set(),
            latency=whole.latency.distribution(),
            service=whole.service.distribution() if is_open else None,
            late=whole.late.distribution() if is_open else None,
            windows=[_window(window) for window in windows],
            server=(_from_answers(whole) or _from_statistics(before[0], after[0])) if is_server else None,
            goodput=_goodput(whole, options.objective),
            metrics=resources.difference(before[1], after[1]),
            client_usage=used[0],
            server_usage=used[1],
            gpus=gpus,
        )

    async def _account(self) -> "tuple[Statistics | None, dict[str, float]]":
        """What the server itself has counted so far."""
        options, statistics, metrics = self._options, None, dict[str, float]()
        if options.protocol == "inference":
            statistics = await asyncio.to_thread(
                read_statistics, options.address, options.model, tls=self._tls, token=self._token
            )
        if options.metrics_url:
            metrics = await asyncio.to_thread(resources.scrape, options.metrics_url)
        return statistics, metrics


def _callers(number: int) -> str:
    return "1 caller" if number == 1 else f"{number} callers"


def _part(whole: int, number: int, parts: int) -> int:
    return whole // parts + (number < whole % parts)


def _figures(window: Window, order: Order) -> tuple[float, float]:
    """What has to agree. In the open loop it is chance how many requests are due: of those, how many were answered."""
    median = window.latency.at(PERCENTILES["p50"])
    if median is None:
        return float("nan"), float("nan")
    if order.rate_per_s is None:
        return window.finished / window.seconds, median
    return window.latency.count / window.due, median


def _window(window: Window) -> WindowResult:
    p50, p99 = (window.latency.at(PERCENTILES[name]) for name in ("p50", "p99"))
    return WindowResult(
        seconds=window.seconds,
        due=window.due,
        failed=sum(window.errors.values()),
        answers_per_s=window.finished / window.seconds,
        p50_ms=None if p50 is None else 1e3 * p50,
        p99_ms=None if p99 is None else 1e3 * p99,
    )


def _from_answers(window: Window) -> ServerSplit | None:
    if not window.queue.count:
        return None
    queue, compute = window.queue.distribution(), window.compute.distribution()
    executions = sum(window.batches.values())
    return ServerSplit(
        source="a sample of the answers",
        queue_ms=queue.mean_ms or 0.0,
        compute_ms=compute.mean_ms or 0.0,
        mean_batch=sum(size * count for size, count in window.batches.items()) / executions,
        batches={str(size): count / executions for size, count in sorted(window.batches.items())},
    )


def _from_statistics(before: Statistics | None, after: Statistics | None) -> ServerSplit | None:
    if before is None or after is None or after.requests <= before.requests or after.executions <= before.executions:
        return None
    requests = after.requests - before.requests
    return ServerSplit(
        source="the server's ModelStatistics, warm-up included",
        queue_ms=1e3 * (after.queue_s - before.queue_s) / requests,
        compute_ms=1e3 * (after.compute_s - before.compute_s) / requests,
        mean_batch=(after.images - before.images) / (after.executions - before.executions),
    )


def _goodput(window: Window, objective: Slo | None) -> Goodput | None:
    if objective is None or not window.due:
        return None
    good = window.latency.within(objective.within_s)
    within = good / window.due
    met = within >= objective.share
    undecided = met and window.due < needed(objective.share)
    return Goodput(within=within, per_s=good / window.seconds, met=None if undecided else met)


async def _sleep(seconds: float, *, unless: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(unless.wait(), max(0.0, seconds))


class _Worker:
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
        """End the measurement; what it tells from now on."""
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
async def _workers(options: Options) -> AsyncIterator[list[_Worker]]:
    async with contextlib.AsyncExitStack() as stack:
        started = [await stack.enter_async_context(_module("worker")) for _ in range(options.processes)]
        workers = [_Worker(process) for process in started]
        await asyncio.gather(*(worker.read() for worker in workers))
        yield workers


@contextlib.asynccontextmanager
async def _null_server(answer: bytes) -> AsyncIterator[str]:
    async with _module("null_server") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(answer)
        process.stdin.close()
        words = (await process.stdout.readline()).split()
        if words[:1] != [b"ready"]:
            raise DigitError("the server that does nothing did not start; --floor-s 0 does without")
        yield words[1].decode()


@contextlib.asynccontextmanager
async def _module(name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """One of this package's programs, ended on leaving."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"clients.benchmark.{name}"),
        # That a server which is done with goes away is nothing to tell people.
        env={"GRPC_VERBOSITY": "ERROR"} | os.environ,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
