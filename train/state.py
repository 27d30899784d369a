"""Everything that changes while a network is trained, and that an interrupted run needs back."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, assert_never

import torch
from torch import nn, optim

from train.models import Recogniser, build
from train.recipes import Recipe


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
    """Network, optimiser, random numbers and history of one run."""

    def __init__(self, recipe: Recipe, *, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)  # initial weights and dropout draw from PyTorch's own generators
        torch.backends.cudnn.deterministic = True  # the same seed gives the same numbers on a GPU, too
        self.recipe = recipe
        self.device = device
        # Channels last makes convolutions on a CPU nearly twice as fast.
        network = build(recipe.architecture, **recipe.arguments).to(memory_format=torch.channels_last)
        self.recogniser = Recogniser(network).to(device)
        self.optimiser = _optimiser(recipe, network.parameters())
        self.generator = torch.Generator(device).manual_seed(seed)  # order and distortion of the images
        self.history: list[EpochMetrics] = []

    @property
    def network(self) -> nn.Module:
        """The network being trained."""
        return self.recogniser.network

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
            "generator": self.generator.get_state(),
            "cpu_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "history": [asdict(metrics) for metrics in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where a state of the same recipe, on the same kind of device, was taken."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["cpu_generator"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)
        self.history = [EpochMetrics(**metrics) for metrics in state["history"]]


def _optimiser(recipe: Recipe, parameters: Iterator[nn.Parameter]) -> optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    match recipe.optimiser:
        case "sgd":
            return optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)
        case "adam":
            return optim.Adam(parameters, lr=rate, weight_decay=decay)
        case _:
            assert_never(recipe.optimiser)
