"""The training loop.

The data set lies on the device as bytes and is shuffled, distorted and normalised there, batch by
batch. The best epoch is chosen on held-out training images; the test images are looked at once,
with that epoch's weights, when all is over.
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
from train.augment import augment
from train.checkpoint import Checkpoint
from train.data import Dataset, Split, hold_out
from train.errors import DivergenceError, RecipeError
from train.evaluate import measure
from train.models import normalise
from train.recipes import Recipe
from train.run import RunFolder, identify
from train.schedule import learning_rate
from train.state import EpochMetrics, TrainingState
from train.storage import save_json


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: RunFolder,
    *,
    seed: int,
    device: torch.device,
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
        seed: Decides initial weights, held-out images, their order and distortion.
        device: Where to compute.
        resume: Go on with the run in `folder`.
        report: Called after each epoch.

    Returns:
        The best epoch's checkpoint, with test metrics.

    Raises:
        RecipeError: There are fewer images to train on than in one batch.
        DivergenceError: A loss is not finite. The best checkpoint so far is kept.
        RunError: `resume` is set and the folder holds a different run.
        WriteError: A file could not be written.
    """
    identity = identify(recipe, dataset, seed=seed, device=device)
    fitting, validation = (part.to(device) for part in hold_out(dataset.train, recipe.validation_fraction, seed))
    if len(fitting) < recipe.batch_size:
        raise RecipeError(f"batch_size is {recipe.batch_size}; it must be at most {len(fitting)}, the training images")
    state = TrainingState(recipe, seed=seed, device=device)
    if resume:
        state.load_state_dict(folder.load_state(identity))
    else:
        folder.clear()

    while not state.finished:
        metrics = _run_epoch(state, fitting, validation)
        state.history.append(metrics)
        # The state comes last: after a crash in between, the epoch is repeated and gives the same files.
        if state.best is metrics:
            checkpoint.save(folder.best, _checkpoint(state, identity))
        _save_history(folder, identity, state)
        folder.save_state(identity, state.state_dict())
        report(metrics)
    return _test_once(folder, identity, state, dataset.test)


def _run_epoch(state: TrainingState, fitting: Split, validation: Split) -> EpochMetrics:
    start = time.perf_counter()
    train_loss, train_accuracy = _fit(state, fitting)
    seconds = time.perf_counter() - start
    validation_loss, validation_accuracy = measure(state.recogniser, validation)
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


def _fit(state: TrainingState, split: Split) -> tuple[float, float]:
    """Makes one pass over the images; returns mean loss and accuracy."""
    recipe, epochs_done = state.recipe, len(state.history)
    steps = len(split) // recipe.batch_size
    order = torch.randperm(len(split), generator=state.generator, device=state.device)
    batches = order[: steps * recipe.batch_size].view(steps, recipe.batch_size)
    # Summed on the device: reading a number back would wait for it at every step.
    loss_sum = torch.zeros((), device=state.device)
    correct = torch.zeros((), device=state.device)

    state.recogniser.train()
    for step, indices in enumerate(tqdm(batches, desc=f"epoch {epochs_done + 1}", leave=False, disable=None)):
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, epochs_done + (step + 0.5) / steps)
        loss, logits = _step(state, split[indices])
        loss_sum += loss
        correct += (logits.argmax(dim=1) == split.labels[indices]).sum()
    return loss_sum.item() / steps, correct.item() / batches.numel()


def _step(state: TrainingState, batch: Split) -> tuple[Tensor, Tensor]:
    """Makes one optimiser step; returns the loss [] and the logits [N, 10]."""
    images = augment(batch.pixels.to(torch.float32) / 255, state.recipe.augmentation, state.generator)
    logits = state.network(normalise(images))
    loss = functional.cross_entropy(logits, batch.labels)
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    return loss.detach(), logits.detach()


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
        weights={name: tensor.cpu() for name, tensor in state.network.state_dict().items()},
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
        "epochs": [asdict(metrics) for metrics in state.history],
        "best_epoch": state.best.epoch if state.best else None,
        "test": test,
    }
    save_json(folder.history, document)


def _test_once(folder: RunFolder, identity: dict[str, Any], state: TrainingState, test: Split) -> Checkpoint:
    """Adds the test metrics to the best checkpoint, unless a finished run has been resumed."""
    best = checkpoint.load(folder.best)
    if "test_loss" in best.metrics:
        return best
    test_loss, test_accuracy = measure(best.recogniser().to(state.device), test)
    tested = {"test_loss": test_loss, "test_accuracy": test_accuracy}
    best = replace(best, metrics=best.metrics | tested)
    _save_history(folder, identity, state, tested)
    checkpoint.save(folder.best, best)
    return best
