"""Command line of training: `python -m train RECIPE [options]`."""

import inspect
import logging
import os
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import distributed

from train import data
from train.checkpoint import Checkpoint
from train.command import INTERRUPTED
from train.data import DataName, Dataset
from train.distributed import Workers, join
from train.errors import RunError, TrainError, unknown_name
from train.hardware import DeviceName, PrecisionName, choose_device, choose_precision
from train.loop import train
from train.models import build, parameter_count
from train.recipes import RECIPES, Recipe
from train.run import RunFolder, check_name
from train.state import EpochMetrics


@dataclass(frozen=True, kw_only=True)
class Command:
    """One training run: a recipe, any of whose fields may be changed, and where it runs."""

    recipe: Recipe

    name: str
    """Name of the run, which is that of its folder."""

    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Folder that holds the folders of all runs."""

    data: DataName = "mnist"
    """Data set; digits8x8 is small, comes with scikit-learn and needs no download."""

    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that holds MNIST/raw, or will after the download; by default $DIGITS_DATA_ROOT, else data."""

    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA where there is any."""

    precision: PrecisionName = "auto"
    """Number format of convolutions and products; auto takes bfloat16 where the device has instructions for it."""

    seed: int = 0
    """Decides initial weights, and order and distortion of the images."""

    resume: bool = False
    """Go on with an interrupted run."""

    overwrite: bool = False
    """Replace an earlier run of that name."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 0 <= self.seed < 2**63:
            raise RunError(f"--seed is {self.seed}; it must be at least 0 and less than 2**63")
        if self.resume and self.overwrite:
            raise RunError("--resume and --overwrite exclude each other; give one of them")

    @property
    def folder(self) -> RunFolder:
        """Where the run keeps its files."""
        return RunFolder(self.runs / self.name)


def main() -> int:
    """Parses the command line, trains, and returns the exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    arguments = sys.argv[1:]
    try:
        command = parse(arguments)
        earlier = _written(command.folder.last)
        try:
            execute(command)
        except KeyboardInterrupt:
            if os.environ.get("RANK", "0") == "0":  # torchrun interrupts all of its workers
                print(f"\ninterrupted: {_how_to_go_on(command, arguments, earlier)}", file=sys.stderr)
            return INTERRUPTED
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str]) -> Command:
    """Turns arguments into a command.

    Asked for help it prints that and exits with status 0; a mistake is answered on stderr with
    exit status 2.

    Raises:
        RecipeError: A field of the recipe is out of range.
        RunError: The options contradict each other, or one is out of range.
    """
    match arguments:
        case [name, *options] if name in RECIPES:
            return _parse_options(name, options)
        case ["-h" | "--help", *_]:
            print(_usage())
            sys.exit(0)
        case [name, *_] if not name.startswith("-"):
            print(f"error: {unknown_name('recipe', name, RECIPES)}", file=sys.stderr)
            sys.exit(2)
        case _:
            print(f"error: the first argument must be the name of a recipe\n\n{_usage()}", file=sys.stderr)
            sys.exit(2)


def _parse_options(name: str, options: list[str]) -> Command:
    recipe = RECIPES[name]
    return tyro.cli(
        Command,
        prog=f"python -m train {name}",
        description=inspect.getdoc(recipe),
        args=options,
        default=Command(recipe=recipe(), name=name),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _usage() -> str:
    summaries = {name: (inspect.getdoc(recipe) or "").splitlines()[0] for name, recipe in RECIPES.items()}
    return "\n".join(
        (
            "usage: python -m train RECIPE [options]",
            "",
            "Trains a digit recogniser and writes runs/RECIPE/best.pt.",
            "",
            "recipes:",
            *(f"  {name:<16} {summary}" for name, summary in summaries.items()),
            "",
            "The options, with the recipe's defaults: python -m train RECIPE --help",
        )
    )


def execute(command: Command) -> None:
    """Runs a command and prints what happens."""
    with join(choose_device(command.device)) as (workers, device):
        folder = command.folder.reserved(resume=command.resume, overwrite=command.overwrite)
        with folder if workers.leads else nullcontext():
            _train(command, workers, device)


def _train(command: Command, workers: Workers, device: torch.device) -> None:
    recipe = command.recipe
    dataset = workers.leader_first(lambda: data.load(command.data, command.data_root))
    precision = choose_precision(command.precision, device)
    if workers.leads:
        print(_heading(command, dataset, device, precision, workers), flush=True)
    best = train(
        recipe,
        dataset,
        command.folder,
        seed=command.seed,
        device=device,
        precision=precision,
        workers=workers,
        resume=command.resume,
        report=lambda metrics: print(_epoch_line(metrics, recipe.epochs), flush=True),
    )
    if workers.leads:
        print(_summary(best, command.folder))


def _heading(command: Command, dataset: Dataset, device: torch.device, precision: torch.dtype, workers: Workers) -> str:
    recipe = command.recipe
    parameters = parameter_count(build(recipe.architecture, **recipe.arguments))
    where = device.type if workers.count == 1 else f"{workers.count} x {device.type}"
    return (
        f"{recipe.architecture} ({parameters:,} parameters) on {dataset.name} ({len(dataset.train):,} training and "
        f"{len(dataset.test):,} test images), {where} in {str(precision).removeprefix('torch.')}, seed {command.seed}"
    )


def _epoch_line(metrics: EpochMetrics, epochs: int) -> str:
    return (
        f"epoch {metrics.epoch:>{len(str(epochs))}}/{epochs}"
        f"  train loss {metrics.train_loss:.4f} accuracy {metrics.train_accuracy:.2%}"
        f"  validation loss {metrics.validation_loss:.4f} accuracy {metrics.validation_accuracy:.2%}"
        f"  lr {metrics.learning_rate:.2g}  {metrics.seconds:.1f} s"
    )


def _summary(best: Checkpoint, folder: RunFolder) -> str:
    metrics = best.metrics
    return "\n".join(
        (
            f"best epoch {best.epoch}: accuracy {metrics['validation_accuracy']:.2%} on the images held out, "
            f"{metrics['test_accuracy']:.2%} on the test images, {metrics['corruption_accuracy']:.2%} corrupted",
            f"written to {folder.path}: {', '.join(file.name for file in folder.files)}",
            f"next: python -m export.to_onnx {shlex.quote(str(folder.best))}",
        )
    )


def _written(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _how_to_go_on(command: Command, arguments: list[str], earlier: int | None) -> str:
    """`earlier`: what `_written` said of `last.pt` before the run."""
    folder, now = command.folder, _written(command.folder.last)
    if now is None:
        return "no epoch was complete, nothing was saved"
    if command.overwrite and now == earlier:
        return f"no epoch was complete, the earlier run in {folder.path} is as it was"
    if distributed.is_torchelastic_launched():
        return f"{folder.best} holds the best epoch so far. Go on with the same torchrun command and --resume"
    kept = [argument for argument in arguments if argument not in ("--resume", "--overwrite")]
    return f"{folder.best} holds the best epoch so far. Go on with\n  python -m train {shlex.join([*kept, '--resume'])}"
