"""What happened in each window of a measurement, and how the processes that drive the load tell it."""

import asyncio
import collections
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from clients.benchmark.calls import Split
from clients.benchmark.percentiles import Histogram

# Of so many answers one is parsed, for the server's split: parsing costs more than everything else here.
SAMPLED = 8

_LONGEST_REASON = 200

_HISTOGRAMS = ("latency", "service", "late", "queue", "compute")


@dataclass(kw_only=True)
class Window:
    """The requests that were due within a window, and how many answers came in it.

    Attributes:
        number: From 0, the first after the warm-up.
        seconds: How long it was.
        due: Requests.
        finished: Answers that came within the window, to whichever request.
        errors: Of its requests, by code.
        reasons: What was said with the first error of each code.
        latency: From the moment at which a request was due to its answer.
        service: From the moment at which it was sent to its answer. In the closed loop the same.
        late: Between the two moments.
        queue: Of a sample of its requests: what the server said.
        compute: Likewise.
        batches: Engine calls by their number of images; each request tells of a share of one.
    """

    number: int
    seconds: float
    due: int = 0
    finished: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    batches: collections.Counter[int] = field(default_factory=collections.Counter)

    def encode(self) -> str:
        """One line of JSON."""
        plain = {
            "number": self.number,
            "seconds": self.seconds,
            "due": self.due,
            "finished": self.finished,
            "errors": self.errors,
            "reasons": self.reasons,
            "batches": {str(size): count for size, count in self.batches.items()},
        }
        return json.dumps(plain | {name: getattr(self, name).encode() for name in _HISTOGRAMS})

    @classmethod
    def merged(cls, lines: Iterable[str]) -> "Window":
        """What several have to tell of a window, or of several windows one after another, in one."""
        merged = cls(number=-1, seconds=0.0)
        seconds: dict[int, float] = {}
        for line in lines:
            plain = json.loads(line)
            merged.number = max(merged.number, plain["number"])
            seconds[plain["number"]] = plain["seconds"]
            merged.due += plain["due"]
            merged.finished += plain["finished"]
            merged.errors.update(plain["errors"])
            merged.reasons = plain["reasons"] | merged.reasons
            merged.batches.update({int(size): count for size, count in plain["batches"].items()})
            for name in _HISTOGRAMS:
                getattr(merged, name).add(plain[name])
        merged.seconds = math.fsum(seconds.values())
        return merged


@dataclass
class _Open:
    """A window whose requests have not all ended."""

    window: Window
    pending: int = 0
    over: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


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
            lambda: _Open(Window(number=-1, seconds=window_s))
        )
        self._answers = 0

    def _number(self, moment: float) -> int:
        return math.floor((moment - self._start) / self._window_s)

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
            window.queue.record(split.queue_s)
            window.compute.record(split.compute_s)
            # Scaled to whole numbers: the sample's requests are shares of engine calls.
            window.batches[split.batch] += round(1000 * self._images / max(split.batch, self._images))
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
        entry = self._open[number]
        entry.pending -= 1
        if entry.over and not entry.pending:
            entry.ended.set()

    async def completed(self, number: int) -> Window:
        """A window when it is over and all of its requests have ended; to be asked for in order."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._start + (number + 1) * self._window_s - loop.time())
        entry = self._open[number]
        entry.over = True
        if entry.pending:
            await entry.ended.wait()
        return self._take(number)

    def interrupted(self) -> list[Window]:
        """The windows so far, of which what is under way has no result."""
        now = asyncio.get_running_loop().time()
        for number, entry in self._open.items():
            entry.window.seconds = min(self._window_s, now - (self._start + number * self._window_s))
            if entry.pending:
                entry.window.errors["INTERRUPTED"] += entry.pending
        return [self._take(number) for number in sorted(self._open)]

    def _take(self, number: int) -> Window:
        window = self._open.pop(number).window
        window.number = number
        return window
