"""The recipes: a run is a named function that returns a frozen configuration.

Each docstring says what the publication states and what it leaves open, and so was chosen here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import tyro

from train.augment import Augmentation
from train.errors import RecipeError

Optimiser = Literal["sgd", "adam"]
Schedule = Literal["constant", "step", "one_cycle"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: everything that decides the result except the data and the seed."""

    architecture: tyro.conf.Suppress[str]
    """Name of the network, see train/models.py; not a flag, for the rest was chosen for it."""

    arguments: dict[str, float] = field(default_factory=dict)
    """The architecture's keyword arguments."""

    epochs: int
    """Largest number of passes over the training images."""

    batch_size: int
    """Images per step; the last, incomplete batch of an epoch is left out."""

    optimiser: Optimiser
    """Rule that turns gradients into steps."""

    learning_rate: float
    """Largest learning rate of the schedule."""

    momentum: float = 0.9
    """Momentum of sgd; adam does not read it."""

    weight_decay: float = 0.0
    """L2 penalty on all parameters."""

    schedule: Schedule = "constant"
    """How the learning rate changes over time, see train/schedule.py."""

    step_epochs: int = 1
    """Epochs between two falls of the step schedule."""

    step_factor: float = 1.0
    """What the step schedule multiplies the learning rate by at each fall."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random distortions of the training images."""

    validation_fraction: float = 0.1
    """Share of the training images held out to choose the best epoch."""

    patience: int | None = None
    """Stop after so many epochs without a better validation loss; None never stops early."""

    def __post_init__(self) -> None:
        self._require(self.epochs >= 1, "epochs", "at least 1")
        self._require(self.batch_size >= 2, "batch_size", "at least 2, for batch norm needs a variance")
        self._require(self.optimiser in get_args(Optimiser), "optimiser", f"one of {get_args(Optimiser)}")
        self._require(0 < self.learning_rate < math.inf, "learning_rate", "greater than 0 and finite")
        self._require(0 <= self.momentum < 1, "momentum", "from 0 up to, but not including, 1")
        self._require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0 and finite")
        self._require(self.schedule in get_args(Schedule), "schedule", f"one of {get_args(Schedule)}")
        self._require(self.step_epochs >= 1, "step_epochs", "at least 1")
        self._require(0 < self.step_factor <= 1, "step_factor", "greater than 0 and at most 1")
        self._require(0 < self.validation_fraction < 1, "validation_fraction", "between 0 and 1, both excluded")
        self._require(self.patience is None or self.patience >= 1, "patience", "at least 1, or None")

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise RecipeError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")


def dropout_cnn() -> Recipe:
    """Two convolutions with dropout everywhere.

    Published: the architecture and the results only. Chosen: Adam at 0.002, batches of 128,
    a one-cycle schedule, 15 epochs, a tenth of the images for validation.
    """
    return Recipe(
        architecture="dropout_cnn",
        arguments={"dropout": 0.25},
        epochs=15,
        batch_size=128,
        optimiser="adam",
        learning_rate=2e-3,
        schedule="one_cycle",
    )


def four_conv() -> Recipe:
    """Four unpadded convolutions, no regularisation.

    Published: SGD at 0.01 with momentum 0.9 and "a scheduler". Chosen: the scheduler (x 0.7 after
    each epoch), batches of 64, 12 epochs, a tenth of the images for validation.
    """
    return Recipe(
        architecture="four_conv",
        epochs=12,
        batch_size=64,
        optimiser="sgd",
        learning_rate=0.01,
        momentum=0.9,
        schedule="step",
        step_epochs=1,
        step_factor=0.7,
    )


def lenet_bn() -> Recipe:
    """Two blocks of convolutions with batch norm and dropout.

    Published in full: Adam at 0.001 with weight decay 0.0001, batches of 64, 15 epochs, patience 5
    on the validation loss, a tenth of the images for validation, no augmentation.
    """
    return Recipe(
        architecture="lenet_bn",
        arguments={"convolution_dropout": 0.25, "linear_dropout": 0.5},
        epochs=15,
        batch_size=64,
        optimiser="adam",
        learning_rate=1e-3,
        weight_decay=1e-4,
        validation_fraction=0.1,
        patience=5,
    )


def compact() -> Recipe:
    """Fewer than 20,000 parameters.

    Published: batches of 512, at most 20 epochs, "image transforms" and "a scheduler". Chosen:
    everything those two words leave open, the optimiser and the dropout rate.
    """
    return Recipe(
        architecture="compact",
        arguments={"dropout": 0.02},
        epochs=20,
        batch_size=512,
        optimiser="adam",
        learning_rate=0.02,
        schedule="one_cycle",
        augmentation=Augmentation(rotation_degrees=8, shift_pixels=2, scale=0.08, shear_degrees=6),
    )


def one_by_one() -> Recipe:
    """Cheap channel changes by 1 x 1 convolutions.

    Published: Adam at 0.002, x 0.1 every 15 epochs, batches of 64, 5 epochs, a crop to 22 pixels
    with probability 0.1 and rotation by up to 15 degrees. Chosen: a tenth of the images for
    validation, where the publication tested on its training images.
    """
    return Recipe(
        architecture="one_by_one",
        epochs=5,
        batch_size=64,
        optimiser="adam",
        learning_rate=2e-3,
        schedule="step",
        step_epochs=15,
        step_factor=0.1,
        augmentation=Augmentation(rotation_degrees=15, crop_probability=0.1),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (dropout_cnn, four_conv, lenet_bn, compact, one_by_one)
}
