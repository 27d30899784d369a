"""Everything that changes while a network is trained, and that an interrupted run needs back."""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor, nn, optim

from train import checkpoint
from train.conditions import revision
from train.distributed import ALONE, Workers
from train.models import Recogniser, build
from train.recipes import Recipe

# After n steps the average reaches back n / 10 steps at most: long enough to smooth, short enough to forget the start.
_AVERAGE_WARM_UP = 10


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean cross-entropy over the epoch's steps, on distorted images.
        train_accuracy: Share of those images that were recognised, 0 to 1.
        validation_loss: Mean cross-entropy on the images held out, after the epoch.
        validation_accuracy: Share of those images that are recognised, 0 to 1.
        learning_rate: The rate of the last step.
        seconds: Time spent on the steps, without evaluation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


class TrainingState:
    """Network, optimiser, averaged weights and history of one run."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        workers: Workers = ALONE,
    ) -> None:
        torch.manual_seed(seed)  # initial weights draw from PyTorch's own generator
        torch.backends.cudnn.deterministic = True  # the same seed gives the same numbers on a GPU, too
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.precision = precision
        self.workers = workers
        # Channels last makes convolutions on a CPU nearly twice as fast.
        self.network = build(recipe.architecture, **recipe.arguments).to(memory_format=torch.channels_last).to(device)
        self.teacher = _teacher(recipe, device)
        self.connected = workers.connect(self.network)
        self.optimiser = _optimiser(recipe, self.network.parameters())
        # The statistics of batch norm are averaged like the weights that they were measured with.
        self.average = copy.deepcopy(self.network) if recipe.average_decay else None
        self.averaged_steps = 0
        self.revisions = [revision()]
        self.history: list[EpochMetrics] = []

    @property
    def recogniser(self) -> Recogniser:
        """What the run has come to: the averaged network where there is an average."""
        return Recogniser(self.network if self.average is None else self.average)

    def begin_epoch(self) -> tuple[torch.Generator, torch.Generator]:
        """Seeds the random numbers of the coming epoch, so that a resumed run has none to restore.

        Dropout, which draws from PyTorch's own generator, is seeded as well.

        Returns:
            A generator that is the same for all workers, for the order of the images, and one that
            is each worker's own, for their distortion.
        """
        epoch = len(self.history)
        order, distortion = (torch.Generator(self.device) for _ in range(2))
        order.manual_seed(_mix(self.seed, epoch))
        distortion.manual_seed(_mix(self.seed, epoch, self.workers.rank, 1))
        torch.manual_seed(_mix(self.seed, epoch, self.workers.rank, 2))
        return order, distortion

    def step(self) -> None:
        """Applies the gradients."""
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average is not None:
            self._update_average(self.average)

    def _update_average(self, average: nn.Module) -> None:
        # The first steps count little, whatever the decay: a short run has an average, too.
        decay = min(self.recipe.average_decay, self.averaged_steps / (self.averaged_steps + _AVERAGE_WARM_UP))
        self.averaged_steps += 1
        with torch.no_grad():
            # All tensors in one call, for a GPU's sake.
            torch._foreach_lerp_(_floating(average), _floating(self.network), 1 - decay)

    @property
    def best(self) -> EpochMetrics | None:
        """The epoch with the smallest validation loss, the first of equals; None before the first."""
        return min(self.history, key=lambda metrics: metrics.validation_loss, default=None)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or the recipe's patience is at its end."""
        done, best, patience = len(self.history), self.best, self.recipe.patience
        out_of_patience = patience is not None and best is not None and done - best.epoch >= patience
        return done >= self.recipe.epochs or out_of_patience

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values from which `load_state_dict` continues exactly here."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "averaged_steps": self.averaged_steps,
            "revisions": self.revisions,
            "history": [asdict(metrics) for metrics in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where a state of the same recipe was taken."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.averaged_steps = state["averaged_steps"]
        self.revisions = list(dict.fromkeys([*state["revisions"], *self.revisions]))
        self.history = [EpochMetrics(**metrics) for metrics in state["history"]]


def _optimiser(recipe: Recipe, parameters: Iterator[nn.Parameter]) -> optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    match recipe.optimiser:
        case "sgd":
            return optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)
        case "adam":
            return optim.Adam(parameters, lr=rate, weight_decay=decay)
        case "adamw":
            return optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case _:
            assert_never(recipe.optimiser)


def _teacher(recipe: Recipe, device: torch.device) -> nn.Module | None:
    if recipe.teacher is None:
        return None
    network: nn.Module = checkpoint.load(Path(recipe.teacher)).network().to(memory_format=torch.channels_last)
    return network.to(device).requires_grad_(False)


def _floating(network: nn.Module) -> list[Tensor]:
    """The tensors that make up a network's answers: weights, and the statistics of batch norm."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def _mix(*numbers: int) -> int:
    """One seed from several numbers; near ones give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
