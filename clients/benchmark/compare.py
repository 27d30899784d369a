"""`python -m clients.benchmark compare BEFORE AFTER`: which differences between two benchmarks are beyond noise.

The rule. For each measurement that both have, windows are compared, in answers a second, median and 99th percentile. A
difference is beyond noise if both hold: Mann and Whitney's test on the windows, two-sided, has p < 0.01 after Holm's
correction for the number of comparisons; and the medians over the windows differ by more than 5 %.

Windows of one run know nothing of what changes from run to run, such as the machine's clock or its neighbours: compare
two runs of the same thing first, and distrust what that finds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import tyro

from clients.benchmark import document
from clients.benchmark.document import Document, Level
from clients.benchmark.table import grid
from clients.errors import DigitError

SIGNIFICANCE = 0.01
LEAST_DIFFERENCE = 0.05

# The smallest p that can be seen is one in so many.
_SHUFFLES = 20_000

# What makes two benchmarks comparable at all.
_SAME = ("protocol", "images", "streams", "arrivals", "processes")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE")]
    """What --json has written."""

    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER")]
    """The same, later."""

    exit_code: bool = False
    """End with status 3 if something has become worse beyond noise: for continuous integration."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of one measurement.

    Attributes:
        level: Name of the measurement.
        figure: Of the figure.
        before: Median over the windows.
        after: Likewise.
        p: Of Mann and Whitney's test, after Holm's correction.
        is_better_higher: Which direction is an improvement.
        is_decidable: Whether there are enough windows for the smallest p that is possible to count.
    """

    level: str
    figure: str
    before: float
    after: float
    p: float
    is_better_higher: bool
    is_decidable: bool

    @property
    def change(self) -> float:
        """As a share of what was."""
        return self.after / self.before - 1 if self.before else math.inf if self.after else 0.0

    @property
    def verdict(self) -> str:
        """What to call it: better, worse, or within noise."""
        if self.p >= SIGNIFICANCE or abs(self.change) <= LEAST_DIFFERENCE:
            return "within noise"
        return "better" if (self.change > 0) == self.is_better_higher else "worse"


def compare(before: Document, after: Document) -> list[Comparison]:
    """Every figure of every measurement that both have.

    Raises:
        DigitError: They have none in common, or have measured different things.
    """
    for name in _SAME:
        if before.options[name] != after.options[name]:
            raise DigitError(
                f"--{name} was {before.options[name]} before and is {after.options[name]} after; "
                "only measurements of the same requests can be compared"
            )
    later = {level.name: level for level in after.levels}
    pairs = [(level, later[level.name]) for level in before.levels if level.name in later]
    found = []
    for old, new in pairs:
        for figure, is_better_higher in (("answers/s", True), ("p50 ms", False), ("p99 ms", False)):
            x, y = _figures(old, figure), _figures(new, figure)
            if len(x) >= 2 and len(y) >= 2:
                found.append((old.name, figure, is_better_higher, x, y, mann_whitney(x, y)))
    if not found:
        names = (", ".join(level.name for level in each.levels) or "nothing" for each in (before, after))
        raise DigitError("there is nothing to compare: measured were {} before and {} after".format(*names))
    corrected = holm([p for *_, p in found])
    return [
        Comparison(
            level=name,
            figure=figure,
            before=float(np.median(x)),
            after=float(np.median(y)),
            p=p,
            is_better_higher=is_better_higher,
            is_decidable=2 * len(found) / math.comb(len(x) + len(y), len(x)) < SIGNIFICANCE,
        )
        for (name, figure, is_better_higher, x, y, _), p in zip(found, corrected, strict=True)
    ]


def _figures(level: Level, figure: str) -> npt.NDArray[np.float64]:
    name = {"answers/s": "answers_per_s", "p50 ms": "p50_ms", "p99 ms": "p99_ms"}[figure]
    values = [getattr(window, name) for window in level.windows]
    return np.array([value for value in values if value is not None], np.float64)


def mann_whitney(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """How often so large a difference in ranks comes of chance: the windows are dealt anew many times.

    Ties need no correction so, and few windows no approximation.
    """
    _, inverse, counts = np.unique(np.concatenate([x, y]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    expected = len(x) * ranks.mean()
    dealt = np.random.default_rng(0).permuted(np.tile(ranks, (_SHUFFLES, 1)), axis=1)[:, : len(x)].sum(axis=1)
    as_far = np.abs(dealt - expected) >= abs(ranks[: len(x)].sum() - expected) - 1e-9
    return float((1 + as_far.sum()) / (1 + _SHUFFLES))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction: the chance that any of so many comparisons is taken for a difference is what one's is."""
    corrected, largest = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[index]))
        corrected[index] = largest
    return corrected


def main(words: list[str]) -> int:
    """Exit status: 0 when compared; 1 when that is impossible; with --exit-code 3 when something has become worse."""
    options = tyro.cli(
        Options,
        prog="python -m clients.benchmark compare",
        description=__doc__,
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    before, after = document.load(options.before), document.load(options.after)
    comparisons = compare(before, after)
    rows = [
        [
            each.level,
            each.figure,
            f"{each.before:,.4g}",
            f"{each.after:,.4g}",
            f"{each.change:+.1%}",
            f"{each.p:.4f}",
            each.verdict,
        ]
        for each in comparisons
    ]
    print(grid(["", "median window", "before", "after", "change", "p", ""], rows))
    print(
        f"\nBeyond noise: p < {SIGNIFICANCE} (Mann-Whitney on windows, Holm) and a change of more than "
        f"{LEAST_DIFFERENCE:.0%}."
    )
    for name in ("machine", "cores", "python", "grpcio"):
        if before.conditions.get(name) != after.conditions.get(name):
            print(f"Mind: {name} was {before.conditions.get(name)} and is {after.conditions.get(name)}.")
    lengths = [each.options["duration_s"] / each.options["windows"] for each in (before, after)]
    if lengths[0] != lengths[1]:
        print(f"Mind: a window was {lengths[0]:g} s and is {lengths[1]:g} s; longer ones see more of the tail.")
    if few := sorted({each.level for each in comparisons if not each.is_decidable}):
        print(f"Mind: too few windows for any difference to be beyond noise: {', '.join(few)}.")
    if failing := sorted({level.name for each in (before, after) for level in each.levels if level.errors}):
        print(f"Mind: requests failed in at least one of the two: {', '.join(failing)}.")
    if unstable := {level.name for each in (before, after) for level in each.levels if not level.stable}:
        print(f"Mind: not stable in at least one of the two: {', '.join(sorted(unstable))}.")
    return 3 if options.exit_code and any(each.verdict == "worse" for each in comparisons) else 0
