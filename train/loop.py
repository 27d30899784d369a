"""The training loop.

The data set lies on the device as bytes and is shuffled, distorted and normalised there, batch by
batch. The best epoch is chosen on held-out training images; the test images, as they are and
corrupted, are looked at once, with that epoch's weights, when all is over.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from train import checkpoint
from train.calibrate import calibrated, measure_calibrated
from train.checkpoint import Checkpoint
from train.data import Dataset, Split, hold_out
from train.distributed import ALONE, Workers
from train.errors import DivergenceError, RecipeError
from train.inference import examine, measure
from train.models import normalise
from train.recipes import Recipe
from train.run import RunFolder, identify
from train.schedule import learning_rate
from train.state import EpochMetrics, TrainingState
from train.storage import save_json
from train.transforms.augment import augment


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: RunFolder,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    workers: Workers = ALONE,
    resume: bool = False,
    report: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Checkpoint:
    """Trains a network and tests its best epoch.

    After each epoch everything is on disk: an interruption costs the epoch it falls in, and a
    resumed run gives the numbers of an uninterrupted one.

    Args:
        recipe: How to train.
        dataset: What to train on.
        folder: Where to write; already prepared. Unless resuming, an earlier run there is deleted.
        seed: Decides initial weights, and order and distortion of the images.
        device: Where to compute.
        precision: Number format of convolutions and products in training; all else is float32.
        workers: The processes that train together. Only the first one validates, writes and reports.
        resume: Go on with the run in `folder`.
        report: Called after each epoch.

    Returns:
        The best epoch's checkpoint, with test metrics.

    Raises:
        RecipeError: There are fewer images to train on than in one batch, or a batch cannot be
            divided among the workers.
        DivergenceError: A loss is not finite. The best checkpoint so far is kept.
        RunError: `resume` is set and the folder holds a different run.
        WriteError: A file could not be written.
    """
    identity = identify(recipe, dataset, seed=seed, device=device, precision=precision, workers=workers.count)
    fitting, validation = (part.to(device) for part in hold_out(dataset.train, recipe.validation_fraction))
    _check_batch(recipe, len(fitting), workers)
    state = TrainingState(recipe, seed=seed, device=device, precision=precision, workers=workers)
    if resume:
        state.load_state_dict(folder.load_state(identity))
    elif workers.leads:
        folder.clear()

    while not state.finished:
        metrics = _run_epoch(state, fitting, validation)
        state.history.append(metrics)
        if workers.leads:
            # The state comes last: after a crash in between, the epoch is repeated and gives the same files.
            if state.best is metrics:
                checkpoint.save(folder.best, _checkpoint(state, identity))
            _save_history(folder, identity, state)
            folder.save_state(identity, state.state_dict())
            report(metrics)
    return _finish(folder, identity, state, validation, dataset.test) if workers.leads else _checkpoint(state, identity)


def _check_batch(recipe: Recipe, images: int, workers: Workers) -> None:
    if images < recipe.batch_size:
        raise RecipeError(f"batch_size is {recipe.batch_size}; it must be at most {images}, the training images")
    if recipe.batch_size % workers.count:
        raise RecipeError(f"batch_size is {recipe.batch_size}; it must be a multiple of {workers.count}, the workers")
    if recipe.batch_size < 2 * workers.count:
        raise RecipeError(
            f"batch_size is {recipe.batch_size}; each of the {workers.count} workers needs 2 images or more"
        )


def _run_epoch(state: TrainingState, fitting: Split, validation: Split) -> EpochMetrics:
    start = time.perf_counter()
    train_loss, train_accuracy = fit(state, fitting)
    seconds = time.perf_counter() - start
    validation_loss, validation_accuracy = _validate(state, validation)
    metrics = EpochMetrics(
        epoch=len(state.history) + 1,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        validation_loss=validation_loss,
        validation_accuracy=validation_accuracy,
        learning_rate=state.optimiser.param_groups[0]["lr"],
        seconds=seconds,
    )
    _check_finite(metrics, state)
    return metrics


def fit(state: TrainingState, split: Split) -> tuple[float, float]:
    """Makes one pass over the images, an epoch; returns mean loss and accuracy."""
    recipe, epochs_done = state.recipe, len(state.history)
    order_numbers, distortion_numbers = state.begin_epoch()
    steps = len(split) // recipe.batch_size
    order = torch.randperm(len(split), generator=order_numbers, device=state.device)
    batches = order[: steps * recipe.batch_size].view(steps, recipe.batch_size)
    # Loss and accuracy, summed on the device: reading a number back would wait for it at every step.
    sums = torch.zeros(2, device=state.device)

    state.network.train()
    progress = tqdm(
        batches, desc=f"epoch {epochs_done + 1}", leave=False, disable=None if state.workers.leads else True
    )
    for step, indices in enumerate(progress):
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, epochs_done + (step + 0.5) / steps)
        sums += _step(state, split[state.workers.share(indices)], distortion_numbers)
    loss, accuracy = (state.workers.mean(sums) / steps).tolist()
    return loss, accuracy


def _step(state: TrainingState, batch: Split, generator: torch.Generator) -> Tensor:
    """Makes one optimiser step; returns the loss and the accuracy, float32 [2]."""
    images = normalise(augment(batch.pixels.to(torch.float32) / 255, state.recipe.augmentation, generator))
    with torch.autocast(state.device.type, state.precision, enabled=state.precision != torch.float32):
        logits = state.connected(images).float()
        taught = None if state.teacher is None else state.teacher(images).float()
    loss = _loss(state.recipe, logits, batch.labels, taught)
    loss.backward()  # type: ignore[no-untyped-call]
    state.step()
    right = (logits.argmax(dim=1) == batch.labels).float().mean()
    return torch.stack((loss.detach(), right))


def _loss(recipe: Recipe, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
    """Cross-entropy with the labels and, where there is a teacher's answer, with that.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015: the factor T^2 keeps the
    size of the gradients independent of the temperature.
    """
    loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if taught is None:
        return loss
    temperature, weight = recipe.teacher_temperature, recipe.teacher_weight
    soft_labels = torch.softmax(taught / temperature, dim=1)
    distance = functional.cross_entropy(logits / temperature, soft_labels) * temperature**2
    return (1 - weight) * loss + weight * distance


def _validate(state: TrainingState, validation: Split) -> tuple[float, float]:
    """Measures the loss and the accuracy, in the first worker, and tells the others."""
    measured = 0.0, 0.0
    if state.workers.leads:
        measured = (measure_calibrated if state.recipe.calibrate else measure)(state.recogniser, validation)
    told = state.workers.from_leader(torch.tensor(measured, dtype=torch.float64, device=state.device))
    loss, accuracy = told.tolist()
    return loss, accuracy


def _check_finite(metrics: EpochMetrics, state: TrainingState) -> None:
    if math.isfinite(metrics.train_loss) and math.isfinite(metrics.validation_loss):
        return
    kept = f"the checkpoint of epoch {state.best.epoch} is kept" if state.best else "no checkpoint was written"
    raise DivergenceError(
        f"training diverged in epoch {metrics.epoch}: training loss {metrics.train_loss:g}, validation loss "
        f"{metrics.validation_loss:g}; {kept}. Try a --learning-rate below {state.recipe.learning_rate:g}"
    )


def _checkpoint(state: TrainingState, identity: dict[str, Any]) -> Checkpoint:
    metrics = asdict(state.history[-1])
    return Checkpoint(
        architecture=state.recipe.architecture,
        arguments=state.recipe.arguments,
        weights={name: tensor.cpu() for name, tensor in state.recogniser.network.state_dict().items()},
        recipe=identity["recipe"],
        seed=identity["seed"],
        epoch=metrics["epoch"],
        metrics={name: value for name, value in metrics.items() if name.endswith(("_loss", "_accuracy"))},
        data=identity["data"],
    )


def _save_history(
    folder: RunFolder, identity: dict[str, Any], state: TrainingState, test: dict[str, float] | None = None
) -> None:
    document = {
        **identity,
        "versions": checkpoint.library_versions(),
        "revisions": state.revisions,  # of the code; several when a run was resumed with another
        "threads": torch.get_num_threads(),
        "epochs": [asdict(metrics) for metrics in state.history],
        "best_epoch": state.best.epoch if state.best else None,
        "test": test,
    }
    save_json(folder.history, document)


def _finish(
    folder: RunFolder, identity: dict[str, Any], state: TrainingState, validation: Split, test: Split
) -> Checkpoint:
    """Calibrates the best checkpoint and adds the test metrics, unless a finished run has been resumed."""
    best = checkpoint.load(folder.best)
    if "test_loss" in best.metrics:
        return best
    if state.recipe.calibrate:
        best = calibrated(best, validation)
    tested = examine(best.recogniser().to(state.device), test)
    best = replace(best, metrics=best.metrics | tested)
    _save_history(folder, identity, state, tested)
    checkpoint.save(folder.best, best)
    return best
