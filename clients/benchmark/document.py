"""What a benchmark leaves behind, as JSON; `document.schema.json` describes it for others."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.benchmark.percentiles import Distribution, Percentile
from clients.benchmark.resources import GpuUsage, Usage
from clients.errors import DigitError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """One window of a measurement.

    Attributes:
        seconds: Its length.
        due: Requests that were due in it.
        failed: How many of them failed.
        answers_per_s: Answers that came in it.
        p50_ms: Median latency of its requests; None if none was answered.
        p99_ms: The 99th percentile of those there are, however few.
    """

    seconds: float
    due: int
    failed: int
    answers_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class ServerSplit:
    """Where the server says that time went.

    Attributes:
        source: What this is taken from.
        queue_ms: Waiting for an engine, mean.
        compute_ms: In the engine, mean.
        mean_batch: Images in the average engine call.
        batches: Share of engine calls by their number of images, where it is known.
    """

    source: str
    queue_ms: float
    compute_ms: float
    mean_batch: float
    batches: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """How a measurement stands to the SLO.

    Attributes:
        within: Share of all requests that were due, failed ones included, which were answered in time.
        per_s: Requests a second that were.
        met: Whether the share is as large as the SLO wants it; None where that is so of too few requests to tell.
    """

    within: float
    per_s: float
    met: bool | None


@dataclass(frozen=True, kw_only=True)
class Level:
    """One measurement: a number of callers, or a rate.

    Attributes:
        loop: "closed" or "open".
        callers: Closed loop: requests under way at any time.
        rate_per_s: Open loop: requests that were due in a second.
        seconds: How long was measured: every window since the warm-up.
        due: Requests.
        answered: How many of them were.
        errors: The others, by code.
        reasons: What was said with the first error of each code.
        requests_per_s: Answers that came within the time measured.
        images_per_s: The same in images.
        stable: Whether the last windows agree.
        interrupted: Whether it was ended before its time.
        latency: From the moment at which a request was due.
        service: Open loop: from the moment at which it was sent, which is the flattering figure.
        late: Open loop: the gap between the two moments.
        windows: In their order.
        server: The server's own account.
        goodput: Where there is an SLO.
        metrics: By how much the server's counters grew, warm-up included.
        client_usage: Of the processes that drove the load.
        server_usage: Of the server, where it is on this machine.
        gpus: Of this machine, where it has any.
    """

    loop: str
    callers: int | None
    rate_per_s: float | None
    seconds: float
    due: int
    answered: int
    errors: dict[str, int]
    reasons: dict[str, str]
    requests_per_s: float
    images_per_s: float
    stable: bool
    interrupted: bool
    latency: Distribution
    service: Distribution | None
    late: Distribution | None
    windows: list[WindowResult]
    server: ServerSplit | None
    goodput: Goodput | None
    metrics: dict[str, float]
    client_usage: Usage | None
    server_usage: Usage | None
    gpus: list[GpuUsage]

    @property
    def name(self) -> str:
        """What was asked for."""
        return level_name(self.callers, self.rate_per_s)


def level_name(callers: int | None, rate_per_s: float | None) -> str:
    """Name of the measurement with so many callers, or of the one at this rate."""
    if rate_per_s is not None:
        return f"{rate_per_s:,.10g}/s" if rate_per_s < 10 else f"{rate_per_s:,.0f}/s"
    return "1 caller" if callers == 1 else f"{callers} callers"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole benchmark.

    Attributes:
        format: Of this document.
        command: The words of the command line.
        options: All of them, defaults included.
        conditions: Machine and versions on the client's side, and when it was.
        server: What the server says about the model.
        floor: The load generator against a server that does nothing.
        levels: Against the server, in the order of measurement.
        highest_rate_per_s: The highest rate that met the SLO, if it was searched for and the search has ended; 0 where
            even the lowest missed it, None as well where there were too few requests to tell.
        interrupted: Whether Ctrl-C ended it.
    """

    format: int = FORMAT
    command: list[str]
    options: dict[str, Any]
    conditions: dict[str, Any]
    server: dict[str, Any]
    floor: list[Level]
    levels: list[Level]
    highest_rate_per_s: float | None
    interrupted: bool

    @property
    def model(self) -> str:
        """What is served, and how, in a few words."""
        names = ("name", "version", "engine", "platform", "device", "precision")
        return " ".join(str(self.server[name]) for name in names if self.server.get(name))


def save(path: Path, result: Any) -> None:
    """Write a dataclass as JSON: a document, or what another command has found.

    Raises:
        DigitError: The file cannot be written.
    """
    text = json.dumps(_finite(dataclasses.asdict(result)), indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise DigitError(f"{path}: cannot be written: {error.strerror}") from error


def load(path: Path) -> Document:
    """Read a document.

    Raises:
        DigitError: It cannot be read, or is none of this format.
    """
    try:
        plain = json.loads(path.read_text())
        if plain["format"] != FORMAT:
            raise DigitError(f"{path}: its format is {plain['format']}; {FORMAT} was expected; measure again")
        levels = {name: [_level(each) for each in plain[name]] for name in ("floor", "levels")}
        return Document(**plain | levels)
    except OSError as error:
        raise DigitError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DigitError(f"{path}: nothing that `python -m clients.benchmark --json` writes ({error!r})") from error


def _level(plain: dict[str, Any]) -> Level:
    parts: dict[str, Any] = {name: _distribution(plain[name]) for name in ("latency", "service", "late")}
    parts["windows"] = [WindowResult(**each) for each in plain["windows"]]
    parts["gpus"] = [GpuUsage(**each) for each in plain["gpus"]]
    kinds = {"server": ServerSplit, "goodput": Goodput, "client_usage": Usage, "server_usage": Usage}
    parts |= {name: kind(**plain[name]) if plain[name] else None for name, kind in kinds.items()}
    return Level(**plain | parts)


def _distribution(plain: dict[str, Any] | None) -> Distribution | None:
    if plain is None:
        return None
    percentiles = {name: Percentile(**each) for name, each in plain["percentiles"].items()}
    return Distribution(**plain | {"percentiles": percentiles})


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
