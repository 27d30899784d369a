"""What is measured, and how: the command line's options, checked."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import tyro

from clients.access import AccessOptions
from clients.benchmark.slo import Slo

DEFAULT_CONCURRENCY = (1, 8, 64)

# What is told of one takes a millisecond.
_SHORTEST_WINDOW_S = 0.01


def check_ranges(*ranges: tuple[str, float, float, float]) -> None:
    """Check options, each by its name, its value, the least and the most that it may be.

    Raises:
        ValueError: One is out of range.
    """
    for name, value, least, most in ranges:
        if not least <= value <= most:
            raise ValueError(f"--{name} is {value:,.10g}; {least:g} to {most:,.10g} was expected")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    address: str = "127.0.0.1:8001"
    """HOST:PORT of the server."""

    protocol: Literal["digits", "inference"] = "digits"
    """`digits` is digits.v1; `inference` is the Open Inference Protocol, for any server and model that speaks it."""

    model: str = ""
    """Name of the model; empty for the server's default, where it has one."""

    images: int = 1
    """Images in each request."""

    streams: int = 0
    """Send requests as messages on so many streams instead of as calls, 0 to 1024."""

    concurrency: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...", help_behavior_hint="")] = ()
    """Closed loop: numbers of requests under way at any time, one measurement each. Default: 1 8 64, unless there is a
    --rate or an --slo."""

    rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PER_S ...", help_behavior_hint="")] = ()
    """Open loop: numbers of requests that are due in a second, whatever became of the others, one measurement each."""

    arrivals: Literal["poisson", "fixed"] = "poisson"
    """Open loop: whether requests are due at random, as from many people, or evenly spaced."""

    slo: Annotated[str | None, tyro.conf.arg(metavar="pPERCENT=TIME")] = None
    """Such as p99=5ms: count as good what is answered within the time, and search for the highest rate at which so
    many of all requests are, unless --rate or --concurrency say what to measure."""

    duration_s: float = 5.0
    """Seconds that are measured, at least."""

    max_duration_s: float | None = None
    """Seconds after which a measurement ends that is not stable. Default: twice --duration-s."""

    windows: int = 10
    """Windows that --duration-s is divided into."""

    stable_windows: int = 5
    """How many windows at the end of a measurement have to agree for it to be stable."""

    agreement: float = 0.1
    """Share of those windows' mean within which each of them, and the whole, has to lie, in requests answered and in
    median latency."""

    warmup_s: float = 1.0
    """Seconds before that, whose requests are not counted."""

    timeout_s: float = 5.0
    """Deadline of each request in seconds; in the open loop from the moment at which it is due."""

    processes: int = 1
    """Processes that drive the load, a connection each. The floor and the client's CPU in the table tell whether more
    are needed."""

    floor_s: float = 1.0
    """Seconds to measure this program itself, against a server that does nothing; 0 does without."""

    server_pid: int | None = None
    """The server's process, for CPU and memory, children included. Default: what listens on the port, if it is here."""

    metrics_url: str | None = None
    """The server's Prometheus metrics, read before and after each measurement."""

    json: Path | None = None
    """File to write everything to, as `document.schema.json` describes it; the input of `compare`."""

    plots: Path | None = None
    """Folder for three figures: latency distribution, throughput and latency, windows over time."""

    seed: int = 0
    """Decides the random pixels and when requests are due."""

    access: tyro.conf.OmitArgPrefixes[AccessOptions] = field(default_factory=AccessOptions)

    def __post_init__(self) -> None:
        if any(not 1 <= each <= 4096 for each in self.concurrency):
            raise ValueError(f"--concurrency is {self.concurrency}; numbers from 1 to 4096 were expected")
        if any(not 0.1 <= each <= 1e6 for each in self.rate):
            raise ValueError(f"--rate is {self.rate}; numbers from 0.1 to 1,000,000 a second were expected")
        check_ranges(
            ("images", self.images, 1, 1 << 20),
            ("streams", self.streams, 0, 1024),
            ("processes", self.processes, 1, 256),
            ("duration-s", self.duration_s, 0.1, 86400),
            ("windows", self.windows, 2, min(1000, self.duration_s / _SHORTEST_WINDOW_S)),
            ("stable-windows", self.stable_windows, 2, self.windows),
            ("max-duration-s", self.longest_s, self.duration_s, 86400),
            ("warmup-s", self.warmup_s, 0, 3600),
            ("timeout-s", self.timeout_s, 0.001, 600),
            ("floor-s", self.floor_s, 0, 60),
            ("agreement", self.agreement, 0.001, 1),
        )
        if 0 < self.streams < self.processes:
            raise ValueError(
                f"--streams is {self.streams}; 0, or one for each of {self.processes} --processes, was expected"
            )
        _ = self.objective  # or its message
        if not re.fullmatch(r"\S+:\d{1,5}", self.address):
            raise ValueError(f"--address is {self.address!r}; HOST:PORT was expected")
        if self.metrics_url is not None and urlsplit(self.metrics_url).scheme not in ("http", "https"):
            raise ValueError(f"--metrics-url is {self.metrics_url!r}; http://HOST:PORT/metrics was expected")

    @property
    def objective(self) -> Slo | None:
        """The SLO."""
        return None if self.slo is None else Slo.parse(self.slo)

    @property
    def longest_s(self) -> float:
        """Seconds after which a measurement ends in any case."""
        return 2 * self.duration_s if self.max_duration_s is None else self.max_duration_s

    @property
    def window_s(self) -> float:
        """Length of a window in seconds."""
        return self.duration_s / self.windows

    @property
    def searches(self) -> bool:
        """Whether the highest rate that meets the SLO is to be found."""
        return self.slo is not None and not self.rate and not self.concurrency

    @property
    def callers(self) -> tuple[int, ...]:
        """The closed loop's levels."""
        return self.concurrency or (() if self.rate or self.slo else DEFAULT_CONCURRENCY)
