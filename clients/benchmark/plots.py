"""Figures of a benchmark: latency distribution, throughput and latency, windows over time."""

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.benchmark.document import Document, Level
from clients.benchmark.percentiles import CONFIDENCE, PERCENTILES, Histogram, needed
from clients.errors import DigitError

_SIZE = (9, 5.5)

# Readable without colours, too, and by those who do not see all of them: Okabe and Ito's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def check() -> None:
    """Whether figures can be drawn, before anything is measured.

    Raises:
        DigitError: They cannot.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise DigitError("--plots needs matplotlib; `pip install '.[benchmark]'` brings it")


def draw(document: Document, folder: Path) -> None:
    """Write `latency.png`, `throughput.png` and `windows.png`.

    Raises:
        DigitError: The folder cannot be written to.
    """
    if not any(level.answered for level in document.levels):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in (
            ("latency", _latency(document)),
            ("throughput", _throughput(document)),
            ("windows", _windows(document)),
        ):
            figure.savefig(folder / f"{name}.png", dpi=120)
    except OSError as error:
        raise DigitError(f"{folder}: figures cannot be written: {error.strerror}") from error


def _figure(document: Document, title: str, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    figure.suptitle(f"{title}: {document.model}", fontsize=11)
    for each in np.atleast_1d(axes):
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _answered(document: Document) -> list[Level]:
    return [level for level in document.levels if level.answered]


def _latency(document: Document) -> Any:
    """Each level's distribution, as far as its number of requests goes; in the open loop from both moments."""
    figure, axes = _figure(document, "Latency distribution")
    for level, colour in zip(_answered(document), itertools.cycle(_COLOURS)):
        _curve(axes, level.latency.histogram, level.name, colour, "-")
        if level.service is not None:
            _curve(axes, level.service.histogram, None, colour, ":")
    for percentile in (each for each in PERCENTILES if each != "p95"):
        axes.axvline(1 / (1 - PERCENTILES[percentile] / 1e6), color="0.6", linewidth=0.5)
    names = [each for each in PERCENTILES if each != "p95"]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, 1.5e4)
    axes.set_xticks([1 / (1 - PERCENTILES[each] / 1e6) for each in names], names)
    axes.minorticks_off()
    axes.set_xlabel("percentile (each curve ends where its requests are too few to say more)")
    axes.set_ylabel("latency, ms")
    _milliseconds(axes.yaxis)
    if any(level.service for level in document.levels):
        axes.plot([], [], ":", color="0.3", label="dotted: from when it was sent")
        axes.plot([], [], "-", color="0.3", label="solid: from when it was due")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _curve(axes: Any, histogram: str, label: str | None, colour: str, style: str) -> None:
    values, cumulative = Histogram(histogram).values_s()
    count = int(cumulative[-1])
    # Values beyond are so few that the next run will have others.
    said = 1 - cumulative / count >= 1 - _supported(count)
    if said.any():
        x, y = 1 / (1 - cumulative[said] / count), 1e3 * values[said]
        axes.step(x, y, style, where="pre", color=colour, label=label, linewidth=1.4 if style == "-" else 1.1)


def _supported(count: int) -> float:
    """The largest share, 0 to 1, of which so many requests can tell the percentile."""
    shares = 1 - np.logspace(0, -6, 600)[1:]
    return float(max((share for share in shares if needed(share) <= count), default=0.0))


def _throughput(document: Document) -> Any:
    """Median and tail against what was answered, or met the SLO."""
    figure, axes = _figure(document, "Throughput and latency")
    colours = iter(_COLOURS)
    for loop in ("closed", "open"):
        # From load to load: where the server is overwhelmed, more brings less, and the curve turns back.
        levels = sorted(
            (level for level in _answered(document) if level.loop == loop),
            key=lambda level: level.callers or level.rate_per_s or 0.0,
        )
        if not levels:
            continue
        colour = next(colours)
        for name, style in (("p50", "o-"), ("p99", "s--")):
            _against_throughput(axes, levels, name, style, colour, f"{loop} loop, {name}")
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    _milliseconds(axes.yaxis)
    axes.set_xlabel("requests answered in a second")
    axes.set_ylabel(f"latency, ms (bars: {CONFIDENCE:.0%} intervals)")
    slo = document.options["slo"]
    if slo and document.highest_rate_per_s:
        axes.axvline(document.highest_rate_per_s, color="#009E73", linewidth=1.2, label=f"highest rate with {slo}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return figure


def _against_throughput(axes: Any, levels: Sequence[Level], name: str, style: str, colour: str, label: str) -> None:
    points = []
    for level in levels:
        percentile = level.latency.percentiles[name]
        if percentile.value_ms is not None and percentile.low_ms is not None and percentile.high_ms is not None:
            points.append((level, percentile.value_ms, percentile.low_ms, percentile.high_ms))
    if not points:
        return
    x = [level.requests_per_s for level, *_ in points]
    below = [value - low for _, value, low, _ in points]
    above = [high - value for _, value, _, high in points]
    y = [value for _, value, _, _ in points]
    axes.errorbar(x, y, [below, above], fmt=style, color=colour, label=label, markersize=4, capsize=2, linewidth=1.2)
    if name == "p50":
        for level, value, *_ in points:
            axes.annotate(level.name, (level.requests_per_s, value), (4, -11), textcoords="offset points", fontsize=7)


def _windows(document: Document) -> Any:
    """What was answered, and how fast, in every window."""
    figure, (above, below) = _figure(document, "Windows over time", rows=2)
    for level, colour in zip(_answered(document), itertools.cycle(_COLOURS)):
        ends = np.cumsum([window.seconds for window in level.windows])
        middles = ends - [window.seconds / 2 for window in level.windows]
        label = level.name if level.stable else f"{level.name}, not stable"
        above.plot(middles, [window.answers_per_s for window in level.windows], "o-", color=colour, label=label, ms=3)
        for name, style in (("p50_ms", "o-"), ("p99_ms", "s--")):
            values = [getattr(window, name) for window in level.windows]
            known = [value if value is not None else float("nan") for value in values]
            below.plot(middles, known, style, color=colour, ms=3, linewidth=1)
    above.set_ylim(bottom=0)
    above.set_ylabel("answers in a second")
    above.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    below.set_yscale("log")
    below.set_ylabel("latency, ms\nsolid p50, dashed p99")
    below.set_xlabel("seconds since the warm-up")
    _milliseconds(below.yaxis)
    return figure


def _milliseconds(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
