"""A benchmark for people to read."""

import math
import textwrap
from collections.abc import Sequence

from clients.benchmark.document import Document, Level
from clients.benchmark.percentiles import CONFIDENCE, PERCENTILES, Distribution, needed
from clients.benchmark.slo import PRECISION

# A terminal's; reached where there is an SLO and more than one image in a request.
WIDTH = 120

_UNKNOWN = "-"

_VERDICTS = {True: "met", False: "missed", None: "too few"}

# Of a process's core: beyond it the load generator is what was measured.
_BUSY = 0.9


def render(document: Document) -> str:
    """The whole of it."""
    sections = []
    if document.floor:
        sections.append(
            "The load generator itself, against a server that does nothing\n" + grid(*_floor(document.floor))
        )
    if document.levels:
        sections += [_heading(document) + "\n" + grid(*_throughput(document)), _latencies(document.levels)]
    sections += _details(document)
    return "\n\n".join(section for section in sections if section)


def _heading(document: Document) -> str:
    options = document.options
    kind = f"messages on {options['streams']} streams" if options["streams"] else "calls"
    images = "1 image" if options["images"] == 1 else f"{options['images']} images"
    return f"{options['address']}: {document.model}; {kind} of {images}"


def _floor(levels: Sequence[Level]) -> tuple[list[str], list[list[str]]]:
    heads = ["", "answered/s", "p50 ms", "p99 ms", "client CPU"]
    return heads, [
        [
            level.name,
            f"{level.requests_per_s:,.0f}",
            *(_figure(level.latency, name) for name in ("p50", "p99")),
            f"{level.client_usage.cores:.2f}" if level.client_usage else _UNKNOWN,
        ]
        for level in levels
    ]


def _throughput(document: Document) -> tuple[list[str], list[list[str]]]:
    has_slo, has_images = document.options["slo"] is not None, document.options["images"] > 1
    heads = ["", "requests", "failed", "answered/s", *(["images/s"] if has_images else [])]
    heads += [*(["good/s", "SLO"] if has_slo else []), "p50 ms", "p99 ms"]
    heads += ["client CPU", "server CPU", "MB", "stable"]
    rows = []
    for level in document.levels:
        goodput = level.goodput
        slo = [f"{goodput.per_s:,.0f}", _VERDICTS[goodput.met]] if goodput else ["-", "-"]
        rows.append(
            [
                level.name,
                f"{level.due:,}",
                f"{sum(level.errors.values()):,}",
                f"{level.requests_per_s:,.0f}",
                *([f"{level.images_per_s:,.0f}"] if has_images else []),
                *(slo if has_slo else []),
                *(_figure(level.latency, name) for name in ("p50", "p99")),
                f"{level.client_usage.cores:.2f}" if level.client_usage else _UNKNOWN,
                f"{level.server_usage.cores:.2f}" if level.server_usage else _UNKNOWN,
                f"{level.server_usage.resident_mb:,.0f}" if level.server_usage else _UNKNOWN,
                "yes" if level.stable else "NO",
            ]
        )
    return heads, rows


def _latencies(levels: Sequence[Level]) -> str:
    """Every percentile with its interval, and the gap between planned and sent."""
    heads = ["ms", "", "mean", *PERCENTILES, "max", "requests"]
    rows = []
    for level in levels:
        lines = [("due → answer" if level.loop == "open" else "sent → answer", level.latency)]
        lines += [("sent → answer", level.service)] if level.service else []
        lines += [("due → sent", level.late)] if level.late else []
        for number, (name, distribution) in enumerate(lines):
            figures = [_figure(distribution, each) for each in PERCENTILES]
            rows.append(
                [
                    "" if number else level.name,
                    name,
                    _milliseconds(distribution.mean_ms),
                    *figures,
                    _milliseconds(distribution.max_ms),
                    f"{distribution.count:,}",
                ]
            )
            if not number:
                rows.append(
                    ["", f"{CONFIDENCE:.0%} interval", "", *(_ends(distribution, each) for each in PERCENTILES), "", ""]
                )
    return grid(heads, rows)


def _details(document: Document) -> list[str]:
    notes = []
    failures = [
        [level.name, f"{count:,}", f"{count / level.due:.1%}", f"{code}: {level.reasons.get(code, '')}".rstrip(": ")]
        for level in document.levels
        for code, count in level.errors.items()
    ]
    if failures:
        notes.append(
            "Requests that failed\n" + _ragged(["", "number", "share", "code, and what was said first"], failures)
        )
    splits = [(level.name, level.server) for level in document.levels if level.server]
    if splits:
        rows = [
            [
                name,
                f"{split.queue_ms:.2f}",
                f"{split.compute_ms:.2f}",
                f"{split.mean_batch:.1f}",
                _batches(split.batches),
            ]
            for name, split in splits
        ]
        notes.append(
            f"What the server says ({splits[0][1].source})\n"
            + _ragged(["", "queue ms", "compute ms", "batch", "engine calls by images"], rows)
        )
    notes += [
        f"The server's own metrics, {level.name}, warm-up included\n{_metrics(level.metrics)}"
        for level in document.levels
        if level.metrics
    ]
    gpus = [(level.name, gpu) for level in document.levels for gpu in level.gpus]
    notes += [
        f"{name}: {gpu.name} {_known(gpu.utilization_percent)} % busy, {_known(gpu.memory_mb)} MB, "
        f"{_known(gpu.power_w)} W"
        for name, gpu in gpus
    ]
    return [*notes, "\n".join(textwrap.fill(each, WIDTH, subsequent_indent="  ") for each in _remarks(document))]


def _remarks(document: Document) -> list[str]:
    options, levels = document.options, document.levels
    began = f"Each measurement began after {options['warmup_s']:g} s of warm-up. Nothing after it was left out."
    remarks = [began, "CPU: cores busy on average. MB: the server's resident memory."] if levels else []
    if any(level.latency.percentiles[name].value_ms is None for level in levels for name in PERCENTILES):
        remarks.append(
            "- : too few requests to say. "
            + ", ".join(f"{name} needs {needed(PERCENTILES[name] / 1e6):,}" for name in ("p99", "p99.9", "p99.99"))
            + "."
        )
    if unstable := [level.name for level in levels if not level.stable]:
        remarks.append(
            f"Not stable: {', '.join(unstable)}: the last {options['stable_windows']} windows, or the whole, differ by "
            f"more than {options['agreement']:.0%} from the mean of those windows."
        )
    processes = options["processes"]
    if busy := [level.name for level in levels if _is_busy(level, processes)]:
        remarks.append(
            f"The load generator was busy all of the time: {', '.join(busy)}; it is part of what was measured. "
            f"More --processes than {processes} can help, on free cores."
        )
    if any(level.server_usage is None for level in levels):
        remarks.append("The server's CPU and memory are unknown: name its process with --server-pid, if it is here.")
    slo = options["slo"]
    if any(level.goodput and level.goodput.met is None for level in levels):
        remarks.append(f"Too few: all was well, but with too few requests to say that of {slo}; see --max-duration-s.")
    if slo and not options["rate"] and not options["concurrency"] and not document.interrupted:
        tried = ", ".join(
            f"{level.rate_per_s:,.0f} {_VERDICTS[level.goodput.met]}"
            for level in levels
            if level.rate_per_s is not None and level.goodput
        )
        highest = document.highest_rate_per_s
        found = "none was found" if not highest else f"{highest:,.0f} requests/s, to {PRECISION:.0%}"
        remarks.append(f"Highest rate that meets {slo}: {found} (tried: {tried or 'none'}).")
    if document.interrupted:
        remarks.append("Interrupted: this is what was measured so far.")
    return remarks


def _is_busy(level: Level, processes: int) -> bool:
    """Whether the processes that had anything to send did nothing else."""
    busy = processes if level.callers is None else min(processes, level.callers)
    return level.client_usage is not None and level.client_usage.cores > _BUSY * busy


def _figure(distribution: Distribution, name: str) -> str:
    return _milliseconds(distribution.percentiles[name].value_ms)


def _known(value: float) -> str:
    return _UNKNOWN if math.isnan(value) else f"{value:,.0f}"


def _ends(distribution: Distribution, name: str) -> str:
    percentile = distribution.percentiles[name]
    if percentile.low_ms is None or percentile.high_ms is None:
        return ""
    return f"{_milliseconds(percentile.low_ms)}..{_milliseconds(percentile.high_ms)}"


def _milliseconds(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return _UNKNOWN
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value >= 0.001 else "0"


def _batches(batches: dict[str, float]) -> str:
    """The most frequent sizes."""
    if not batches:
        return ""
    most = sorted(batches.items(), key=lambda item: -item[1])[:6]
    rest = 1 - sum(share for _, share in most)
    words = [f"{size}: {share:.0%}" for size, share in sorted(most, key=lambda item: int(item[0]))]
    return ", ".join(words + ([f"others: {rest:.0%}"] if rest >= 0.005 else []))


def _metrics(metrics: dict[str, float]) -> str:
    lines = []
    for name, value in sorted(metrics.items()):
        stem = name.removesuffix("_sum")
        if stem != name and metrics.get(f"{stem}_count"):
            lines.append(f"  {stem}: {metrics[f'{stem}_count']:,.0f}, mean {value / metrics[f'{stem}_count']:.4g}")
        elif not (name.endswith("_count") and f"{name.removesuffix('_count')}_sum" in metrics):
            lines.append(f"  {name}: {value:,.4g}")
    return "\n".join(lines)


def _ragged(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A grid whose last column is words, which begin at the left."""
    width = max(len(row[-1]) for row in (heads, *rows))
    return grid([*heads[:-1], heads[-1].ljust(width)], [[*row[:-1], row[-1].ljust(width)] for row in rows])


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, each to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)).rstrip() for row in (heads, *rows))
