"""What is measured, one thing after another: orders for the processes that drive the load, and what they tell."""

import asyncio
import base64
import contextlib
import dataclasses
import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clients.benchmark import processes, resources, slo
from clients.benchmark.calls import Statistics, Target, read_statistics
from clients.benchmark.document import Level, level_name
from clients.benchmark.options import Options
from clients.benchmark.percentiles import needed
from clients.benchmark.processes import Worker
from clients.benchmark.resources import GpuUsage, Meter, Usage
from clients.benchmark.tally import Tally, split_between
from clients.errors import DigitError

# Between the order and the first request: processes connect meanwhile.
_LEAD_S = 0.3

# A search for the highest rate starts at what so many callers get in the closed loop.
_SEARCH_CALLERS = 64

# What is waited for once a worker has been told to stop, beyond the deadline of what is under way.
_PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """One measurement.

    Attributes:
        address: Of the server.
        is_floor: Whether that is the one which does nothing.
        callers: Closed loop: requests under way.
        rate_per_s: Open loop: requests due in a second.
        warmup_s: Seconds before the first window.
        window_s: Length of a window.
        windows: How many there are at least.
        longest_s: Seconds after which it ends in any case.
    """

    address: str
    is_floor: bool = False
    callers: int | None = None
    rate_per_s: float | None = None
    warmup_s: float
    window_s: float
    windows: int
    longest_s: float

    def __str__(self) -> str:
        least_s = self.windows * self.window_s
        limit = f", up to {self.longest_s:g} s until it is stable" if self.longest_s > least_s + 1e-9 else ""
        return (
            f"{'the load generator itself, ' if self.is_floor else ''}{level_name(self.callers, self.rate_per_s)}: "
            f"{self.warmup_s:g} s of warm-up, {least_s:g} s{limit} …"
        )


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


async def run(options: Options, target: Target, findings: Findings, tell: Callable[[str], None]) -> None:
    """Measures everything that was asked for. Ctrl-C ends it early; a second one at once.

    Args:
        options: What to measure.
        target: What to send.
        findings: Takes what was measured, also where an exception ends it.
        tell: Says what is being done.

    Raises:
        DigitError: A process of its own has failed, or there are no metrics.
    """
    interrupt = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, _interrupt, interrupt)
    try:
        if options.metrics_url:
            await asyncio.to_thread(resources.scrape, options.metrics_url)  # its message before anything is measured
        async with processes.workers(options.processes) as workers:
            measurer = _Measurer(options, target, workers, interrupt, tell)
            if options.floor_s:
                async with processes.null_server(target.answer) as address:
                    await measurer.measure_all(_floor(options, address), findings.floor)
            await measurer.measure_all(_orders(options, findings), findings.levels)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    findings.interrupted = interrupt.is_set()


def _interrupt(interrupt: asyncio.Event) -> None:
    if interrupt.is_set():
        raise KeyboardInterrupt
    interrupt.set()


def _floor(options: Options, address: str) -> Iterator[Order]:
    for callers in sorted({1, max(options.callers, default=_SEARCH_CALLERS)}):
        yield Order(
            address=address,
            is_floor=True,
            callers=callers,
            warmup_s=min(options.warmup_s, options.floor_s / 2),
            window_s=options.floor_s / 5,
            windows=5,
            longest_s=options.floor_s,
        )


def _orders(options: Options, findings: Findings) -> Iterator[Order]:
    order = functools.partial(
        Order,
        address=options.address,
        warmup_s=options.warmup_s,
        window_s=options.window_s,
        longest_s=options.longest_s,
    )

    def at(rate: float) -> Order:
        windows = options.windows
        if options.objective:
            # As long as it takes to tell, with some to spare for chance.
            seconds = min(1.2 * needed(options.objective.share) / rate, options.longest_s)
            windows = max(windows, math.ceil(seconds / options.window_s))
        return order(rate_per_s=rate, windows=windows)

    for callers in options.callers:
        yield order(callers=callers, windows=options.windows)
    yield from map(at, options.rate)
    if not options.searches:
        return
    yield order(callers=_SEARCH_CALLERS, windows=options.windows)
    if not (capacity := findings.levels[-1].requests_per_s):
        return
    search = slo.search(capacity)
    rate = next(search)
    while True:
        yield at(rate)
        goodput = findings.levels[-1].goodput
        try:
            rate = search.send(goodput.met if goodput else None)
        except StopIteration as end:
            findings.highest_rate_per_s = end.value
            return


class _Measurer:
    def __init__(
        self,
        options: Options,
        target: Target,
        workers: list[Worker],
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

    async def measure_all(self, orders: Iterable[Order], levels: list[Level]) -> None:
        """One after another; the next order may depend on what has been measured."""
        for order in orders if not self._interrupt.is_set() else ():
            self._tell(str(order))
            levels.append(await self._measure(order))
            if self._interrupt.is_set():
                return

    async def _measure(self, order: Order) -> Level:
        options, tally = self._options, Tally(is_open=order.rate_per_s is not None)
        before = await self._account(order)
        start = time.monotonic() + _LEAD_S
        for number, worker in enumerate(self._workers):
            worker.order(self._share(order, number, start))
        async with resources.watch_gpus() as gpus:
            # Usage is counted from the end of the warm-up to that of the last window.
            await _sleep(start + order.warmup_s - time.monotonic(), unless=self._interrupt)
            client = Meter([worker.pid for worker in self._workers])
            server = Meter([] if order.is_floor else self._pids)
            cut_short = await self._watch(order, tally)
            used = client.read(), server.read()
            word = "interrupt" if self._interrupt.is_set() else "stop"
            patience_s = options.timeout_s + _PATIENCE_S
            ended = await asyncio.gather(*(worker.end(word, patience_s) for worker in self._workers))
        if word == "interrupt":
            told = (first + rest for first, rest in zip(cut_short, ended, strict=True))
            for lines in itertools.zip_longest(*told):
                tally.add(line for line in lines if line)
        return self._level(order, tally, used, gpus, before, await self._account(order))

    async def _watch(self, order: Order, tally: Tally) -> list[list[str]]:
        """Takes windows until they are enough; returns what some workers tell of one that was interrupted."""
        interrupted = asyncio.ensure_future(self._interrupt.wait())
        try:
            while not interrupted.done():
                reads = [asyncio.ensure_future(worker.read()) for worker in self._workers]
                told = asyncio.gather(*reads)
                await asyncio.wait((told, interrupted), return_when=asyncio.FIRST_COMPLETED)
                if not told.done():
                    told.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await told
                    return [[read.result()] if not read.cancelled() else [] for read in reads]
                tally.add(told.result())
                is_enough = len(tally.windows) >= order.windows and self._is_stable(tally)
                if is_enough or (len(tally.windows) + 1) * order.window_s > order.longest_s + 1e-9:
                    break
            return [[] for _ in self._workers]
        finally:
            interrupted.cancel()

    def _is_stable(self, tally: Tally) -> bool:
        return tally.is_stable(count=self._options.stable_windows, agreement=self._options.agreement)

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
        return {
            "address": order.address,
            "tls": dataclasses.asdict(self._tls) if self._tls and not order.is_floor else None,
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

    def _level(
        self,
        order: Order,
        tally: Tally,
        used: tuple[Usage | None, Usage | None],
        gpus: list[GpuUsage],
        before: "tuple[Statistics | None, dict[str, float]]",
        after: "tuple[Statistics | None, dict[str, float]]",
    ) -> Level:
        options, whole = self._options, tally.whole
        is_open = order.rate_per_s is not None
        per_s = whole.finished / whole.seconds if whole.seconds else 0.0
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
            stable=self._is_stable(tally),
            interrupted=self._interrupt.is_set(),
            latency=whole.latency.distribution(),
            service=whole.service.distribution() if is_open else None,
            late=whole.late.distribution() if is_open else None,
            windows=tally.windows,
            server=None if order.is_floor else tally.split() or split_between(before[0], after[0]),
            goodput=tally.goodput(options.objective) if options.objective else None,
            metrics=resources.difference(before[1], after[1]),
            client_usage=used[0],
            server_usage=used[1],
            gpus=gpus,
        )

    async def _account(self, order: Order) -> "tuple[Statistics | None, dict[str, float]]":
        """What the server itself has counted so far; nothing from one that has gone meanwhile."""
        options, statistics, metrics = self._options, None, dict[str, float]()
        if options.protocol == "inference" and not order.is_floor:
            statistics = await asyncio.to_thread(
                read_statistics, options.address, options.model, tls=self._tls, token=self._token
            )
        if options.metrics_url and not order.is_floor:
            with contextlib.suppress(DigitError):
                metrics = await asyncio.to_thread(resources.scrape, options.metrics_url)
        return statistics, metrics


def _part(whole: int, number: int, parts: int) -> int:
    return whole // parts + (number < whole % parts)


async def _sleep(seconds: float, *, unless: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(unless.wait(), max(0.0, seconds))
