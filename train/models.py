"""The architectures, and the recogniser that turns pixels into probabilities with one of them.

A network takes normalised images, float32 [N, 1, 28, 28], and returns logits, float32 [N, 10]. The
layers and the parameter counts of the first five are the published ones. Where the publication ends in log-softmax
the layer is left out: cross-entropy and the recogniser's soft-max contain it.

Shapes: N images, C channels, 28 x 28 pixels, 10 digits.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from train.errors import ArchitectureError, unknown_name

# Mean and standard deviation of MNIST's training pixels, scaled to 0..1.
MEAN = 0.1307
STD = 0.3081


def normalise(images: Tensor) -> Tensor:
    """Returns images of 0..1 shifted and scaled to the mean and deviation that networks expect."""
    return (images - MEAN) / STD


class Recogniser(nn.Module):
    """A network with its preprocessing in front and soft-max behind: what is evaluated, exported and served.

    This is the project's only copy of the preprocessing.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Recognises digits.

        Args:
            pixels: uint8 [N, 1, 28, 28], white ink (255) on black (0).

        Returns:
            Probabilities, float32 [N, 10].
        """
        images = pixels.to(torch.float32) / 255
        logits = self.network(normalise(images))
        return torch.softmax(logits, dim=1)


def dropout_cnn(*, dropout: float = 0.25) -> nn.Sequential:
    """Two convolutions and two linear layers with dropout before each: 421,642 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),  # [N, 32, 14, 14]
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),  # [N, 64, 7, 7]
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(3136, 128),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(128, 10),
    )


def four_conv() -> nn.Sequential:
    """Four unpadded convolutions and two linear layers: 593,200 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # [N, 64, 12, 12]
        nn.Conv2d(64, 128, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.Conv2d(128, 256, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # [N, 256, 4, 4]
        nn.Flatten(),
        nn.Linear(4096, 50),
        nn.ReLU(inplace=True),
        nn.Linear(50, 10),
    )


def lenet_bn(*, convolution_dropout: float = 0.25, linear_dropout: float = 0.5) -> nn.Sequential:
    """Two blocks of two convolutions with batch norm, then two linear layers: 871,530 parameters."""
    return nn.Sequential(
        *_convolution_block(1, 32),
        *_convolution_block(32, 32),
        nn.MaxPool2d(2),
        nn.Dropout2d(convolution_dropout),  # [N, 32, 14, 14]
        *_convolution_block(32, 64),
        *_convolution_block(64, 64),
        nn.MaxPool2d(2),
        nn.Dropout2d(convolution_dropout),  # [N, 64, 7, 7]
        nn.Flatten(),
        nn.Linear(3136, 256),
        nn.BatchNorm1d(256),
        nn.ReLU(inplace=True),
        nn.Dropout(linear_dropout),
        nn.Linear(256, 10),
    )


def compact(*, dropout: float = 0.05) -> nn.Sequential:
    """Five narrow convolutions with batch norm and a 1 x 1 transition: 16,146 parameters.

    The publication does not state its dropout rate; a network this small needs little.
    """
    return nn.Sequential(
        *_convolution_block(1, 16),
        *_convolution_block(16, 16),
        nn.Dropout(dropout),
        nn.MaxPool2d(2),  # [N, 16, 14, 14]
        *_convolution_block(16, 16),
        *_convolution_block(16, 16),
        nn.Dropout(dropout),
        nn.MaxPool2d(2),  # [N, 16, 7, 7]
        *_convolution_block(16, 32),
        nn.Conv2d(32, 8, kernel_size=1),
        nn.Flatten(),
        nn.Linear(392, 10),
    )


def one_by_one() -> nn.Sequential:
    """Four convolutions, three of them followed by a 1 x 1 convolution: 24,210 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # [N, 8, 14, 14]
        nn.Conv2d(8, 16, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),  # [N, 16, 7, 7]
        nn.Conv2d(16, 8, kernel_size=1),
        nn.Conv2d(8, 16, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, kernel_size=1),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, kernel_size=1),
        nn.Flatten(),
        nn.Linear(1568, 10),
    )


def champion(*, dropout: float = 0.3) -> nn.Sequential:
    """Nine convolutions with batch norm, three at each of three resolutions: 513,546 parameters.

    Of this project's own design: three convolutions in a row see as far as one of 7 x 7 pixels, and
    the last three, of which one is not padded, join what remains of the image.
    """
    return nn.Sequential(
        *_convolution_block(1, 32),
        *_convolution_block(32, 32),
        *_convolution_block(32, 32),
        nn.MaxPool2d(2),  # [N, 32, 14, 14]
        *_convolution_block(32, 64),
        *_convolution_block(64, 64),
        *_convolution_block(64, 64),
        nn.MaxPool2d(2),  # [N, 64, 7, 7]
        *_convolution_block(64, 128),
        *_convolution_block(128, 128),
        *_convolution_block(128, 128, padding=0),  # [N, 128, 5, 5]
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(3200, 10),
    )


class Committee(nn.Module):
    """Several networks as one: the mean of their logits, which is the geometric mean of their opinions."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Asks every member: normalised float32 [N, 1, 28, 28] to logits, float32 [N, 10]."""
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


def committee(*, members: Sequence[Mapping[str, Any]]) -> nn.Sequential:
    """Networks that answer together.

    Args:
        members: `architecture` and `arguments` of each.
    """
    if not members:
        raise ValueError("a committee needs at least one member")
    networks = []
    for member in members:
        if member["architecture"] == committee.__name__:
            raise ValueError("a committee's members are networks, not committees")
        networks.append(build(member["architecture"], **member["arguments"]))
    return nn.Sequential(Committee(networks))


def _convolution_block(inputs: int, outputs: int, padding: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=padding),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


ARCHITECTURES: Mapping[str, Callable[..., nn.Sequential]] = {
    builder.__name__: builder
    for builder in (dropout_cnn, four_conv, lenet_bn, compact, one_by_one, champion, committee)
}


def build(architecture: str, /, **arguments: Any) -> nn.Sequential:
    """Builds a network with fresh random weights.

    Args:
        architecture: A key of `ARCHITECTURES`.
        arguments: Keyword arguments of that architecture's function.

    Raises:
        ArchitectureError: The architecture, or one of its arguments, is not known or not allowed.
    """
    builder = ARCHITECTURES.get(architecture)
    if builder is None:
        raise ArchitectureError(unknown_name("architecture", architecture, ARCHITECTURES))
    parameters = inspect.signature(builder).parameters
    for argument, value in arguments.items():
        if argument not in parameters:
            raise ArchitectureError(unknown_name(f"argument of {architecture}", argument, parameters))
        if isinstance(value, float) and math.isnan(value):  # which no comparison of PyTorch's refuses
            raise ArchitectureError(f"{argument} of {architecture} is nan; it must be a number")
    try:
        return builder(**arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise ArchitectureError(f"{architecture} cannot be built with {arguments}: {error}") from error


def parameter_count(network: nn.Module) -> int:
    """Returns the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
