"""What a network says about images, and how good that is."""

import numpy as np
import torch
from numpy.typing import NDArray

from train.data import Split
from train.models import Recogniser
from train.transforms.corrupt import CORRUPTIONS, corrupted

Probabilities = NDArray[np.float32]
Labels = NDArray[np.int64]


def predict(recogniser: Recogniser, split: Split, batch_size: int = 1000) -> Probabilities:
    """Recognises every image of a split, on the recogniser's device.

    Leaves the recogniser in evaluation mode.

    Returns:
        Probabilities, float32 [N, 10].
    """
    device = next(recogniser.parameters()).device
    recogniser.eval()
    with torch.inference_mode():
        parts = [recogniser(pixels.to(device)) for pixels in torch.split(split.pixels, batch_size)]
        probabilities: Probabilities = torch.cat(parts).cpu().numpy()
    return probabilities


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Returns the share of images whose most probable digit is the right one, 0 to 1."""
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def cross_entropy(probabilities: Probabilities, labels: Labels) -> float:
    """Returns the mean negative logarithm of the right digit's probability.

    A probability that has underflowed to zero counts as the smallest normal number, so that one
    image cannot make the mean infinite.
    """
    right = probabilities[np.arange(len(labels)), labels]
    smallest = np.finfo(np.float32).tiny
    return float(-np.log(np.maximum(right, smallest), dtype=np.float64).mean())


def measure(recogniser: Recogniser, split: Split) -> tuple[float, float]:
    """Returns loss (cross-entropy) and accuracy on a split."""
    probabilities = predict(recogniser, split)
    labels: Labels = split.labels.cpu().numpy()
    return cross_entropy(probabilities, labels), accuracy(probabilities, labels)


def examine(recogniser: Recogniser, test: Split) -> dict[str, float]:
    """Measures what is measured once, when all is decided.

    Returns:
        `test_loss` and `test_accuracy`, and `corruption_accuracy`: the mean accuracy over the corruptions of
        the test images that `train.transforms.corrupt` defines.
    """
    loss, accuracy = measure(recogniser, test)
    corruption_accuracies = [measure(recogniser, corrupted(test, name))[1] for name in CORRUPTIONS]
    return {
        "test_loss": loss,
        "test_accuracy": accuracy,
        "corruption_accuracy": float(np.mean(corruption_accuracies)),
    }
