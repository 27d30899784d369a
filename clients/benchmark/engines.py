"""`python -m clients.benchmark engines BUNDLE`: what the engines take for a call, without a server around them.

Timed is the very code that serves. With --checkpoint PyTorch is timed as well, operation by operation, which needs the
extra `train`.

On a CPU every engine computes on one thread, as a server's engine does. Engines take turns in each of several rounds,
because the speed of a machine drifts: what counts is the median of the rounds' medians, and how far apart they are.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import tyro

from clients.benchmark import document
from clients.benchmark.table import grid
from clients.errors import DigitError

EngineName = Literal["onnxruntime", "onnxruntime-int8", "onnxruntime-cuda", "tensorrt"]

_FEWEST_CALLS = 5
_WARM_UP_S = 0.05

Run = Callable[[npt.NDArray[np.uint8]], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """The bundle, such as pretrained/compact."""

    checkpoint: Path | None = None
    """The checkpoint it was made from, to time PyTorch as well."""

    batch: tuple[int, ...] = (1, 8, 32, 128)
    """Numbers of images in a call."""

    rounds: int = 5
    """How often every engine gets its turn."""

    duration_s: float = 0.2
    """Seconds of each turn at each number of images."""

    json: Path | None = None
    """File to write the result to."""

    def __post_init__(self) -> None:
        if not self.batch or any(not 1 <= size <= 4096 for size in self.batch):
            raise ValueError(f"--batch is {self.batch}; numbers from 1 to 4096 were expected")
        if not 1 <= self.rounds <= 1000:
            raise ValueError(f"--rounds is {self.rounds}; 1 to 1000 was expected")
        if not 0.01 <= self.duration_s <= 60:
            raise ValueError(f"--duration-s is {self.duration_s:g}; 0.01 to 60 was expected")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One engine with one number of images.

    Attributes:
        engine: By the name that `python -m serve --engine` knows it by, or "pytorch".
        batch: Images in a call.
        median_ms: Of a call: median of the rounds' medians.
        lowest_ms: The quickest round's median.
        highest_ms: The slowest round's.
        images_per_s: At the median.
    """

    engine: str
    batch: int
    median_ms: float
    lowest_ms: float
    highest_ms: float
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was timed.

    Attributes:
        timings: Of every engine that can run here.
        absent: Of the others, why they cannot.
    """

    timings: list[Timing]
    absent: dict[str, str]


def compare(options: Options) -> Result:
    """Times every engine that can run here.

    Raises:
        DigitError: The bundle or the checkpoint cannot be read.
    """
    with contextlib.ExitStack() as stack:
        running, absent = _open(options, stack)
        pixels = np.random.default_rng(0).integers(0, 256, (max(options.batch), 1, 28, 28), dtype=np.uint8)
        medians: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for name, (run, largest) in running.items():
                for size in options.batch:
                    if largest is None or size <= largest:
                        seconds = _median_s(run, pixels[:size], options.duration_s)
                        medians.setdefault((name, size), []).append(seconds)
    timings = [
        Timing(
            engine=name,
            batch=size,
            median_ms=1e3 * statistics.median(each),
            lowest_ms=1e3 * min(each),
            highest_ms=1e3 * max(each),
            images_per_s=size / statistics.median(each),
        )
        for (name, size), each in medians.items()
    ]
    return Result(timings=timings, absent=absent)


def _open(options: Options, stack: contextlib.ExitStack) -> tuple[dict[str, tuple[Run, int | None]], dict[str, str]]:
    """The engines that can run here, with the largest number of images they take, and why the others cannot."""
    # The one module of `clients` that imports what serves, since that is what it times.
    try:
        from bundle import Bundle, BundleError
        from serve.engines.selection import select
        from serve.errors import ServeError
    except ModuleNotFoundError as error:
        raise DigitError(f"{error.name} is not installed; `pip install '.[cpu,benchmark]'` brings it") from error
    try:
        bundle = Bundle.open(options.bundle)
    except BundleError as error:
        raise DigitError(str(error)) from error
    running: dict[str, tuple[Run, int | None]] = {}
    absent: dict[str, str] = {}
    for name in get_args(EngineName):
        try:
            selection = select(bundle, name)
            engine = stack.enter_context(selection.open())
            engine.run(np.zeros((1, 1, 28, 28), np.uint8))  # what a GPU lacks often shows only now
            running[name] = engine.run, selection.largest_batch
        except ServeError as error:
            absent[name] = str(error)
    if options.checkpoint is None:
        absent["pytorch"] = "--checkpoint was not given"
    else:
        running["pytorch"] = stack.enter_context(_pytorch(options.checkpoint)), None
    return running, absent


@contextlib.contextmanager
def _pytorch(checkpoint: Path) -> Iterator[Run]:
    try:
        import torch

        import train.checkpoint
        from train.errors import TrainError
    except ModuleNotFoundError as error:
        raise DigitError(f"{error.name} is not installed; `pip install '.[train]'` brings it") from error
    try:
        recogniser: Any = train.checkpoint.load(checkpoint).recogniser()  # torch.load(weights_only=True)
    except TrainError as error:
        raise DigitError(str(error)) from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(pixels: npt.NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return recogniser(torch.from_numpy(pixels)).numpy()

    try:
        yield run
    finally:
        torch.set_num_threads(threads)


def _median_s(run: Run, pixels: npt.NDArray[np.uint8], duration_s: float) -> float:
    warm = time.perf_counter() + _WARM_UP_S
    while time.perf_counter() < warm:
        run(pixels)
    seconds: list[float] = []
    end = time.perf_counter() + duration_s
    while len(seconds) < _FEWEST_CALLS or time.perf_counter() < end:
        started = time.perf_counter()
        run(pixels)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main(words: list[str]) -> int:
    """Exit status: 0 when an engine was timed, 1 when none could be."""
    options = tyro.cli(Options, prog="python -m clients.benchmark engines", description=__doc__, args=words)
    result = compare(options)
    if result.timings:
        rows = [
            [
                each.engine,
                str(each.batch),
                f"{each.median_ms:.3f}",
                f"{each.lowest_ms:.3f} to {each.highest_ms:.3f}",
                f"{each.images_per_s:,.0f}",
            ]
            for each in result.timings
        ]
        print(grid(["engine", "images", "median ms", "rounds", "images/s"], rows))
    for name, reason in result.absent.items():
        print(f"{name}: {reason}")
    if options.json is not None:
        document.save(options.json, result)
    return 0 if result.timings else 1
