"""The check between a model and its first caller: the engine answers the bundle's probe set as the reference did.

Digests prove that the files are the exporter's; this proves that they compute on this machine what they did there, and
in bearable time. Measure first, judge second.
"""

import functools
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from bundle import Bundle, probe
from serve.engines import IMAGE_SHAPE, Engine, OpenEngine, Pixels, Probabilities
from serve.errors import CheckFailed

log = logging.getLogger(__name__)

# Most images in one engine call: what a busy server on a CPU makes.
_BATCH = 32

# By the engine's precision, the largest difference of any probability; the export's gate goes by the same figures.
MAX_DIFFERENCE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.25}

# Where the reference's best probability leads by this much, a correct engine names the same digit.
DECIDED = 0.5
MIN_AGREEMENT = 0.99


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What an engine may differ by.

    Attributes:
        max_difference: Largest difference of any probability.
        max_latency_ms: Largest median duration of an engine call, of `_BATCH` images or as many as the engine takes.
    """

    max_difference: float
    max_latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured. Shares are from 0 to 1.

    Attributes:
        images: How many were asked about.
        decided: On how many of them the reference was decided.
        agreeing: On how many of those the engine names the same digit.
        difference: Largest difference of any probability; NaN where the engine gave no number.
        accuracy: Share of right digits among all images.
        latency_ms: Median duration of an engine call.
    """

    images: int
    decided: int
    agreeing: int
    difference: float
    accuracy: float
    latency_ms: float

    def __str__(self) -> str:
        return (
            f"{self.agreeing} of {self.decided} digits as the reference, probabilities within {self.difference:.2g}, "
            f"{self.accuracy:.1%} of {self.images} right, {self.latency_ms:.1f} ms per call"
        )


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Labelled images with the reference's answers.

    Attributes:
        pixels: uint8 [N, 1, 28, 28].
        labels: uint8 [N].
        reference: float32 [N, 10].
    """

    pixels: Pixels
    labels: npt.NDArray[np.uint8]
    reference: Probabilities

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """A bundle's probe set; None if it has none.

        Raises:
            BundleError: It is not what the manifest says, or no probe set.
        """
        if probe.PROBE not in bundle.manifest.files:
            return None
        examples = probe.read(bundle.read(probe.PROBE))
        return cls(
            pixels=np.frombuffer(b"".join(each.pixels for each in examples), np.uint8).reshape(-1, *IMAGE_SHAPE),
            labels=np.array([each.label for each in examples], np.uint8),
            reference=np.array([each.probabilities for each in examples], np.float32),
        )

    def measure(self, engine: Engine, *, max_batch: int, clock: Callable[[], float] = time.perf_counter) -> Finding:
        """Ask an engine, which takes up to `max_batch` images in one call, about every image."""
        answers, seconds, batch = [], [], min(max_batch, _BATCH)
        for start in range(0, len(self.pixels), batch):
            started = clock()
            answers.append(engine.run(self.pixels[start : start + batch]))
            seconds.append(clock() - started)
        probabilities = np.concatenate(answers)
        ranked = np.sort(self.reference, axis=1)
        decided = ranked[:, -1] - ranked[:, -2] >= DECIDED
        digits = probabilities.argmax(axis=1)
        return Finding(
            images=len(self.pixels),
            decided=int(decided.sum()),
            agreeing=int((digits == self.reference.argmax(axis=1))[decided].sum()),
            difference=float(np.abs(probabilities - self.reference).max()),
            accuracy=float(np.mean(digits == self.labels)),
            latency_ms=statistics.median(seconds) * 1000,
        )


def judge(finding: Finding, bounds: Bounds) -> list[str]:
    """What is wrong, in a line each; empty when all is well."""
    wrong = []
    if finding.agreeing < MIN_AGREEMENT * finding.decided:
        wrong.append(
            f"it names the reference's digit on {finding.agreeing} of {finding.decided} images, "
            f"at least {MIN_AGREEMENT:.0%} was expected"
        )
    # Written so that a difference that is not a number fails.
    if not finding.difference <= bounds.max_difference:
        wrong.append(
            f"a probability differs from the reference's by {finding.difference:.3g}, "
            f"at most {bounds.max_difference:.3g} was expected"
        )
    if finding.latency_ms > bounds.max_latency_ms:
        wrong.append(
            f"a call takes {finding.latency_ms:.1f} ms, at most {bounds.max_latency_ms:g} was expected "
            "(--check-latency-ms)"
        )
    return wrong


def checked(open_engine: OpenEngine, probe: Probe, bounds: Bounds, *, max_batch: int) -> OpenEngine:
    """Opens engines as `open_engine` does, but yields only such as answer the probe.

    Opening one raises CheckFailed where its answers are not the reference's, or take too long.
    """
    return functools.partial(_open_checked, open_engine, probe, bounds, max_batch)


@contextmanager
def _open_checked(open_engine: OpenEngine, probe: Probe, bounds: Bounds, max_batch: int) -> Iterator[Engine]:
    with open_engine() as engine:
        finding = probe.measure(engine, max_batch=max_batch)
        log.debug("checked: %s", finding)
        if wrong := judge(finding, bounds):
            raise CheckFailed(f"the model fails its check: {'; '.join(wrong)}")
        yield engine
