"""`python -m train.evaluate best.pt`: measure a checkpoint on test images, draw what was found, and write a report."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from train import checkpoint as checkpoints
from train import command, data
from train.checkpoint import Checkpoint, library_versions
from train.data import DataName, Dataset, Split
from train.errors import CheckpointError, WriteError
from train.hardware import DeviceName, choose_device
from train.inference import Probabilities, predict
from train.models import parameter_count
from train.report import figures
from train.report.metrics import CONFIDENCE_LEVEL, DIGITS, Evaluation, answers, evaluate
from train.report.page import render
from train.run import RunFolder
from train.storage import make_folder, read_bytes, save_json, write_bytes
from train.transforms.corrupt import CORRUPTIONS, corrupted

FORMAT_VERSION = 1

# Every figure that there can be.
FIGURES = {
    "samples",
    "learning_curves",
    "digit_accuracy",
    "confusion_matrix",
    "mistakes",
    "examples",
    "reliability",
    "corruption_accuracy",
    "corruption_examples",
}

_EXAMPLES_PER_CORRUPTION = 8
_LIBRARIES = ("torchvision", "numpy", "scipy", "scikit-learn", "torchmetrics", "matplotlib")
_CURVES = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an evaluation. The fields' docstrings are the command line's help."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Checkpoint written by `python -m train`, such as runs/compact/best.pt."""

    data: DataName | None = None
    """Data set whose test images to take. Default: the one that the checkpoint was trained on."""

    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder that holds MNIST/raw, or will after the download; by default $DIGITS_DATA_ROOT, else data."""

    device: DeviceName = "auto"
    """Where to compute; auto takes CUDA where there is any."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where to write. Default: the checkpoint's own folder. An earlier evaluation there is replaced."""


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """Where one evaluation is written."""

    path: Path

    @property
    def document(self) -> Path:
        """All numbers."""
        return self.path / "evaluation.json"

    @property
    def page(self) -> Path:
        """All numbers and figures, for people."""
        return self.path / "report.html"

    def figure(self, name: str) -> Path:
        """One figure."""
        return self.path / "figures" / f"{name}.png"

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            RunError: It cannot be made or written to.
        """
        for folder in (self.figure("any").parent, self.path):
            make_folder(folder, "choose another folder with --out")

    def write(self, document: dict[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Writes everything, the document last, and deletes figures that an earlier evaluation had and this has not.

        Raises:
            WriteError: A file could not be written or deleted.
        """
        for name, content in pictures.items():
            write_bytes(self.figure(name), content)
        for name in FIGURES - pictures.keys():
            _delete(self.figure(name))
        write_bytes(self.page, render(document, pictures).encode())
        save_json(self.document, document)


def evaluate_checkpoint(options: Options) -> dict[str, Any]:
    """Measures, draws and writes; says on standard output what it found.

    Returns:
        What it wrote to `evaluation.json`.

    Raises:
        TrainError: Nothing was written, unless it is a WriteError.
    """
    device = choose_device(options.device)
    # Read once: training may replace the file at any moment.
    stored = read_bytes(options.checkpoint)
    checkpoint = checkpoints.parse(stored, options.checkpoint)
    dataset = data.load(options.data or checkpoint.data["name"], options.data_root)
    folder = OutputFolder(path=options.out or options.checkpoint.parent)
    folder.prepare()
    recogniser = checkpoint.recogniser().to(device)
    print(
        f"{options.checkpoint}: {checkpoint.architecture} ({parameter_count(recogniser):,} parameters), epoch "
        f"{checkpoint.epoch}, on {len(dataset.test):,} test images of {dataset.name}, {device}",
        flush=True,
    )

    probabilities = predict(recogniser, dataset.test)
    if damaged := np.count_nonzero(~np.isfinite(probabilities).all(axis=1)):
        raise CheckpointError(
            f"{options.checkpoint} gives probabilities that are no numbers for {damaged:,} of {len(probabilities):,} "
            "images: its weights are damaged. Train again or fetch the file again"
        )
    splits = {name: corrupted(dataset.test, name) for name in tqdm(CORRUPTIONS, "corrupt", leave=False, disable=None)}
    evaluation = evaluate(
        probabilities,
        dataset.test.labels.numpy(),
        {
            name: predict(recogniser, split)
            for name, split in tqdm(splits.items(), "predict", leave=False, disable=None)
        },
    )
    print(_summary(evaluation), flush=True)

    epochs, notes = learning_curves(checkpoint, RunFolder(options.checkpoint.parent).history)
    if dataset.sha256 != checkpoint.data["sha256"]:
        notes.append(
            f"The network was trained on other data, {checkpoint.data['name']} with SHA-256 "
            f"{checkpoint.data['sha256']}; this is {dataset.name} with {dataset.sha256}."
        )
    document = {
        "format_version": FORMAT_VERSION,
        **_identity(options.checkpoint.name, stored, checkpoint, dataset),
        "device": device.type,
        "notes": notes,
        "confidence_level": CONFIDENCE_LEVEL,
        **dataclasses.asdict(evaluation),
    }
    drawn = _draw(dataset, splits, probabilities, evaluation)
    if epochs:
        drawn["learning_curves"] = figures.learning_curves(epochs, best=checkpoint.epoch)
    folder.write(document, {name: figures.png(figure) for name, figure in drawn.items()})
    for note in notes:
        print(f"note: {note}")
    print(f"written to {folder.path}: {folder.document.name}, {folder.page.name} and {len(drawn)} figures")
    return document


def _identity(name: str, stored: bytes, checkpoint: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """Returns what was evaluated, on what, and with which libraries, as plain values."""
    return {
        "model": {
            "architecture": checkpoint.architecture,
            "arguments": checkpoint.arguments,
            "parameters": parameter_count(checkpoint.network()),
            "checkpoint": name,
            "sha256": hashlib.sha256(stored).hexdigest(),
            "epoch": checkpoint.epoch,
            "seed": checkpoint.seed,
            "trained_on": checkpoint.data,
            "trained_with": checkpoint.versions,
        },
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "versions": library_versions() | {library: version(library) for library in _LIBRARIES},
    }


def _draw(
    dataset: Dataset, splits: Mapping[str, Split], probabilities: Probabilities, evaluation: Evaluation
) -> dict[str, Figure]:
    """Draws everything but the learning curves; mistakes only where there are any."""
    test = dataset.test.pixels.numpy()
    labels = dataset.test.labels.numpy()
    samples = dataset.train[_chosen(len(dataset.train))]
    examples = _chosen(len(dataset.test)).tolist()
    mistakes = sorted(evaluation.mistakes, key=lambda mistake: -mistake.probability)[: figures.GRID_IMAGES]
    rows = {"as they are": dataset.test, **splits}
    drawn = {
        "samples": figures.samples(samples.pixels.numpy(), samples.labels.tolist()),
        "digit_accuracy": figures.digit_accuracy(evaluation.digits, evaluation.accuracy),
        "confusion_matrix": figures.confusion_matrix(evaluation.confusion),
        "examples": figures.answers(test[examples], answers(probabilities, labels, examples)),
        "reliability": figures.reliability(evaluation.calibration),
        "corruption_accuracy": figures.corruption_accuracy(evaluation.robustness, evaluation.accuracy),
        "corruption_examples": figures.corruption_examples(
            {name: split.pixels[:_EXAMPLES_PER_CORRUPTION].numpy() for name, split in rows.items()}
        ),
    }
    if mistakes:
        drawn["mistakes"] = figures.answers(test[[mistake.index for mistake in mistakes]], mistakes)
    return drawn


def _chosen(count: int) -> Tensor:
    """As many indices as fill a grid, always the same ones."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[: figures.GRID_IMAGES]


def learning_curves(checkpoint: Checkpoint, path: Path) -> tuple[list[dict[str, float]], list[str]]:
    """Reads the epochs of the run that a checkpoint came from; if there are none to read, a note says why."""
    try:
        history = json.loads(path.read_bytes())
        # As JSON has it, which knows no tuples.
        own = json.loads(json.dumps([checkpoint.recipe, checkpoint.seed, checkpoint.data]))
        epochs = [{name: float(epoch[name]) for name in _CURVES} for epoch in history["epochs"]]
        if own != [history[name] for name in ("recipe", "seed", "data")]:
            reason = "belongs to another run"
        elif not epochs:
            reason = "has no epoch"
        else:
            return epochs, []
    except FileNotFoundError:
        reason = "is not there"
    except (OSError, ValueError, TypeError, LookupError):
        reason = "is not a run's history"
    return [], [f"The learning curves are left out: {path.name} beside the checkpoint {reason}."]


def _summary(evaluation: Evaluation) -> str:
    accuracy, macro, robustness = evaluation.accuracy, evaluation.macro, evaluation.robustness
    width = max(map(len, robustness.accuracies))
    return "\n".join(
        (
            f"accuracy {accuracy.value:.2%} ({CONFIDENCE_LEVEL:.0%} interval {accuracy.low:.2%} to "
            f"{accuracy.high:.2%}), {evaluation.errors:,} errors",
            f"loss {evaluation.loss:.4f}, expected calibration error {evaluation.calibration.expected_error:.4f}",
            "",
            "digit  precision   recall       F1  images",
            *(_row(each.digit, each.precision, each.recall.value, each.f1, each.images) for each in evaluation.digits),
            _row("mean", macro.precision, macro.recall, macro.f1, evaluation.images),
            "",
            "digit  answered as",
            _counts("", DIGITS),
            *(_counts(digit, (count or "." for count in row)) for digit, row in enumerate(evaluation.confusion)),
            "",
            f"{'corruption':<{width}}  accuracy",
            *(f"{name:<{width}}  {each.value:>8.2%}" for name, each in robustness.accuracies.items()),
            f"{'mean':<{width}}  {robustness.mean_accuracy:>8.2%}",
            "",
        )
    )


def _row(digit: int | str, precision: float, recall: float, f1: float, images: int) -> str:
    return f"{digit:>5}  {precision:>9.2%}  {recall:>7.2%}  {f1:>7.2%}  {images:>6,}"


def _counts(digit: int | str, cells: Iterable[int | str]) -> str:
    return f"{digit:>5}" + "".join(f"  {cell:>5}" for cell in cells)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path} is out of date and could not be deleted: {error.strerror}; delete it") from error


def main() -> int:
    """Exit status: 0 when the report was written, 1 when it was not, 130 after Ctrl-C."""
    options = tyro.cli(Options, prog="python -m train.evaluate", description=__doc__)
    return command.run(lambda: evaluate_checkpoint(options), interrupted="there is no new report")


if __name__ == "__main__":
    sys.exit(main())
