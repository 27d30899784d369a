"""Probabilities that can be believed: one number, fitted on held-out images, that scales the logits.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (temperature scaling).
Training on distorted images and smoothed labels leaves a network less sure of clean ones than it
may be.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from torch import nn

from train.checkpoint import Checkpoint
from train.data import Split
from train.errors import ArchitectureError
from train.inference import Labels, Probabilities, accuracy, cross_entropy, predict
from train.models import Recogniser

# Natural logarithms of the smallest and the largest temperature. Few images, all of them right, ask for ever sharper
# answers, which would be no more than luck: a network is made e times as sure at most.
_BOUNDS = (-1.0, 3.0)


def temperature(probabilities: Probabilities, labels: Labels) -> float:
    """The number that logits must be divided by for the smallest cross-entropy.

    Args:
        probabilities: float32 [N, 10].
        labels: int64 [N].
    """
    logits = _logits(probabilities)
    right = np.arange(len(labels)), labels

    def loss(logarithm: float) -> float:
        return -float(special.log_softmax(logits / np.exp(logarithm), axis=1)[right].mean())

    found = optimize.minimize_scalar(loss, bounds=_BOUNDS, method="bounded")
    return float(np.exp(found.x))


def measure_calibrated(recogniser: Recogniser, validation: Split) -> tuple[float, float]:
    """Returns the loss that the recogniser would have after calibration on these images, and its accuracy.

    Epochs are compared by it: smoothed labels and distorted images make a better network less sure,
    which uncalibrated would count against it.
    """
    probabilities, labels = predict(recogniser, validation), validation.labels.cpu().numpy()
    if np.isfinite(probabilities).all():  # else the loss says so
        probabilities = special.softmax(_logits(probabilities) / temperature(probabilities, labels), axis=1)
    return cross_entropy(probabilities, labels), accuracy(probabilities, labels)


def calibrated(checkpoint: Checkpoint, validation: Split) -> Checkpoint:
    """Returns the checkpoint with its last layer divided by the temperature that fits the images.

    The network keeps its layers and its answers; only how sure it is of them changes.

    Raises:
        ArchitectureError: The network does not end in a linear layer.
    """
    network = checkpoint.network()
    divisor = temperature(predict(Recogniser(network), validation), validation.labels.cpu().numpy())
    with torch.no_grad():
        for parameter in last_layer(network).parameters():
            parameter.div_(divisor)
    return replace(checkpoint, weights=network.state_dict())


def last_layer(network: nn.Sequential) -> nn.Linear:
    """Returns the linear layer that a network ends in.

    Raises:
        ArchitectureError: It ends in something else.
    """
    last = network[-1]
    if not isinstance(last, nn.Linear):
        raise ArchitectureError(f"the network ends in {type(last).__name__}; calibration scales a final Linear layer")
    return last


def _logits(probabilities: Probabilities) -> NDArray[np.float64]:
    """Logits that give these probabilities; a probability that has underflowed counts as the smallest normal number."""
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny), dtype=np.float64)
