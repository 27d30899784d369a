"""What the windows of a measurement add up to."""

import math
from collections.abc import Iterable

from clients.benchmark.calls import Statistics
from clients.benchmark.document import Goodput, ServerSplit, WindowResult
from clients.benchmark.percentiles import PERCENTILES, needed
from clients.benchmark.recording import Window
from clients.benchmark.slo import Slo
from clients.benchmark.stability import is_stable


class Tally:
    """One measurement so far.

    Attributes:
        whole: All windows in one.
        windows: Each of them.

    Args:
        is_open: Whether the loop is open. Then it is chance how many requests are due: what has to agree is the share
            of them that was answered, instead of the number.
    """

    def __init__(self, *, is_open: bool) -> None:
        self.whole = Window(seconds=0.0)
        self.windows: list[WindowResult] = []
        self._is_open = is_open
        self._figures: list[tuple[float, float]] = []

    def add(self, lines: Iterable[str]) -> None:
        """The next window, as one or more processes tell it."""
        window, *others = map(Window.decode, lines)
        for other in others:
            window.merge(other)
        self.whole.merge(window)
        self.whole.seconds += window.seconds
        result = _window(window)
        self.windows.append(result)
        answered = window.latency.count / window.due if self._is_open and window.due else result.answers_per_s
        self._figures.append((answered, math.nan if result.p50_ms is None else result.p50_ms))

    def is_stable(self, *, count: int, agreement: float) -> bool:
        """See `stability`."""
        return is_stable(self._figures, count=count, agreement=agreement)

    def goodput(self, objective: Slo) -> Goodput | None:
        """How it stands to an SLO; None if nothing was due."""
        window = self.whole
        if not window.due:
            return None
        good = window.latency.within(objective.within_s)
        within = good / window.due
        met = within >= objective.share
        undecided = met and window.due < needed(objective.share)
        return Goodput(within=within, per_s=good / window.seconds, met=None if undecided else met)

    def split(self) -> ServerSplit | None:
        """Where the server says in its answers that time went."""
        window = self.whole
        calls = sum(window.batches.values())
        if not calls:
            return None
        return ServerSplit(
            source="a sample of the answers",
            queue_ms=1e3 * window.queue_s / window.sampled,
            compute_ms=1e3 * window.compute_s / window.sampled,
            mean_batch=sum(size * number for size, number in window.batches.items()) / calls,
            batches={str(size): number / calls for size, number in sorted(window.batches.items())},
        )


def split_between(before: Statistics | None, after: Statistics | None) -> ServerSplit | None:
    """Where the server says in its statistics that time went."""
    if before is None or after is None or after.requests <= before.requests or after.executions <= before.executions:
        return None
    requests = after.requests - before.requests
    return ServerSplit(
        source="the server's ModelStatistics, warm-up included",
        queue_ms=1e3 * (after.queue_s - before.queue_s) / requests,
        compute_ms=1e3 * (after.compute_s - before.compute_s) / requests,
        mean_batch=(after.images - before.images) / (after.executions - before.executions),
    )


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
