"""What happened in each window of a measurement, and how the processes that drive the load tell it."""

import asyncio
import collections
import json
import math
from dataclasses import dataclass, field

from clients.benchmark.calls import Split
from clients.benchmark.percentiles import Histogram

# Of so many answers one is parsed, for the server's split: parsing costs more than everything else here.
SAMPLED = 8

_LONGEST_REASON = 200

_HISTOGRAMS = ("latency", "service", "late")
_NUMBERS = ("due", "finished", "sampled", "queue_s", "compute_s")


@dataclass(kw_only=True)
class Window:
    """The requests that were due within a window, and how many answers came in it.

    Attributes:
        seconds: How long it was.
        due: Requests.
        finished: Answers that came within the window, to whichever request.
        errors: Of its requests, by code.
        reasons: What was said with the first error of each code.
        latency: From the moment at which a request was due to its answer.
        service: From the moment at which it was sent to its answer. In the closed loop the same.
        late: Between the two moments.
        sampled: How many of its answers were asked what the server says of them.
        queue_s: The sum of what those waited for an engine.
        compute_s: And were in one.
        batches: Engine calls by their number of images; each answer tells of a share of one.
    """

    seconds: float
    due: int = 0
    finished: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)
    sampled: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    batches: collections.defaultdict[int, float] = field(default_factory=lambda: collections.defaultdict(float))

    def encode(self) -> str:
        """One line of JSON."""
        return json.dumps(vars(self) | {name: getattr(self, name).encode() for name in _HISTOGRAMS})

    @classmethod
    def decode(cls, line: str) -> "Window":
        """What `encode` has written."""
        plain = json.loads(line)
        window = cls(**plain | {name: Histogram(plain[name]) for name in _HISTOGRAMS})
        window.errors = collections.Counter(plain["errors"])
        window.batches = collections.defaultdict(float, {int(size): calls for size, calls in plain["batches"].items()})
        return window

    def merge(self, other: "Window") -> None:
        """Add what another process has to tell of the same window, or what there is to tell of another window."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.reasons = other.reasons | self.reasons
        for size, calls in other.batches.items():
            self.batches[size] += calls
        for name in _HISTOGRAMS:
            getattr(self, name).add(getattr(other, name))


@dataclass
class _Open:
    """A window that has not been told, and how many of its requests are under way."""

    window: Window
    pending: int = 0


class Recorder:
    """Sorts what one process sees into windows.

    Args:
        start: When the first window begins; requests due before are warm-up, and not recorded.
        window_s: Length of a window.
        images: In each request.
    """

    def __init__(self, *, start: float, window_s: float, images: int) -> None:
        self._start = start
        self._window_s = window_s
        self._images = images
        self._open: collections.defaultdict[int, _Open] = collections.defaultdict(
            lambda: _Open(Window(seconds=window_s))
        )
        self._answers = 0
        self._next_due = math.inf
        self._told = 0
        self._over = False
        self._complete = asyncio.Event()

    def _number(self, moment: float) -> int:
        return math.floor((moment - self._start) / self._window_s)

    def expect(self, planned: float) -> None:
        """Open loop: no request that has not begun is due before this moment.

        Windows that end later are not complete, be they over: a load generator that has fallen behind still has to send
        their requests.
        """
        if self._number(planned) != self._next_due:
            self._next_due = self._number(planned)
            self._check()

    def begin(self, planned: float) -> int:
        """A request is due; its window's number is what `answer` and `fail` want to know."""
        number = self._number(planned)
        if number >= 0:
            entry = self._open[number]
            entry.window.due += 1
            entry.pending += 1
        return number

    def answer(self, number: int, planned: float, sent: float, answered: float, split: Split | None) -> None:
        """The request was answered."""
        if (finished := self._number(answered)) >= 0:
            self._open[finished].window.finished += 1
        if number < 0:
            return
        window = self._open[number].window
        window.latency.record(answered - planned)
        window.service.record(answered - sent)
        window.late.record(sent - planned)
        if split is not None:
            window.sampled += 1
            window.queue_s += split.queue_s
            window.compute_s += split.compute_s
            window.batches[split.batch] += self._images / max(split.batch, self._images)
        self._end(number)

    def fail(self, number: int, code: str, reason: str | None = None) -> None:
        """The request failed."""
        if number >= 0:
            window = self._open[number].window
            window.errors[code] += 1
            if reason and code not in window.reasons:
                window.reasons[code] = reason[:_LONGEST_REASON]
            self._end(number)

    def samples(self) -> bool:
        """Whether the next answer is one of those that are parsed."""
        self._answers += 1
        return self._answers % SAMPLED == 1

    def _end(self, number: int) -> None:
        self._open[number].pending -= 1
        if number == self._told:
            self._check()

    def _check(self) -> None:
        if self._over and self._next_due > self._told and not self._open[self._told].pending:
            self._complete.set()

    async def next(self) -> Window:
        """The next window, when it is over and all of its requests have ended."""
        loop = asyncio.get_running_loop()
        self._complete.clear()
        await asyncio.sleep(self._start + (self._told + 1) * self._window_s - loop.time())
        self._over = True
        self._check()
        await self._complete.wait()
        self._over = False
        return self._take()

    def interrupted(self) -> list[Window]:
        """The windows so far, of which what is under way has no result."""
        now = asyncio.get_running_loop().time()
        windows = []
        while (seconds := now - self._start - self._told * self._window_s) > 0:
            entry = self._open[self._told]
            entry.window.seconds = min(self._window_s, seconds)
            if entry.pending:
                entry.window.errors["INTERRUPTED"] += entry.pending
            windows.append(self._take())
        return windows

    def _take(self) -> Window:
        window = self._open.pop(self._told).window
        self._told += 1
        return window
