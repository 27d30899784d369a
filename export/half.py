"""The same network in half precision: batch norm folded into its neighbours, then weights and arithmetic in FP16.

Pixels are scaled and normalised in FP32 as before, and soft-max is taken in FP32: both are cheap, and both are where
FP16's eleven bits would be seen.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from export.errors import GraphError
from train.models import Committee, Recogniser

LARGEST = torch.finfo(torch.float16).max
SMALLEST_NORMAL = torch.finfo(torch.float16).tiny

_BATCH = 1000  # images at a time, for the memory's sake


class HalfNetwork(nn.Module):
    """A network that takes and gives float32, and computes in float16 in between."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Float32 [N, 1, 28, 28] to logits, float32 [N, 10]."""
        logits: Tensor = self.network(images.to(torch.float16))
        return logits.to(torch.float32)


def fold(network: nn.Module) -> nn.Module:
    """Returns a copy in which each batch norm is part of the convolution or linear layer before it.

    In FP16 the order matters: folded afterwards, the rounding of both is multiplied.

    Args:
        network: In evaluation mode.

    Raises:
        GraphError: The network is in training mode, or a batch norm follows something else.
    """
    if any(module.training for module in network.modules()):
        raise GraphError("the network is in training mode; call eval() before converting")
    if isinstance(network, Committee):
        return Committee(fold(member) for member in network.members).eval()
    if not isinstance(network, nn.Sequential):
        return copy.deepcopy(network)
    layers: list[nn.Module] = []
    for layer in network:
        match layers[-1] if layers else None, layer:
            case nn.Conv2d() as before, nn.BatchNorm2d():
                layers[-1] = fuse_conv_bn_eval(before, layer)
            case nn.Linear() as before, nn.BatchNorm1d():
                layers[-1] = fuse_linear_bn_eval(before, layer)
            case before, nn.BatchNorm1d() | nn.BatchNorm2d():
                name = "nothing" if before is None else type(before).__name__
                raise GraphError(
                    f"a {type(layer).__name__} follows {name}; it can be folded only into the "
                    "convolution or linear layer right before it"
                )
            case _:
                layers.append(fold(layer))
    return nn.Sequential(*layers).eval()


def folded(recogniser: Recogniser) -> Recogniser:
    """Returns a copy of the recogniser around a folded network; errors as in `fold`."""
    return Recogniser(fold(recogniser.network)).eval()


def halve(recogniser: Recogniser) -> Recogniser:
    """Returns a copy that computes in FP16 between normalisation and soft-max; errors as in `fold`."""
    return Recogniser(HalfNetwork(fold(recogniser.network).to(torch.float16))).eval()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How a network's weights fare in FP16: how many there are, and how many are not what they were.

    Attributes:
        count: All of them.
        overflowing: Beyond FP16's largest number: infinite.
        vanishing: Too small for FP16: zero.
        subnormal: Below FP16's smallest normal number, where less than eleven bits are left.
    """

    count: int
    overflowing: int
    vanishing: int
    subnormal: int


def round_weights(network: nn.Module) -> Weights:
    """Counts what becomes of the weights of a folded network, float32, in FP16."""
    weights = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    rounded = weights.to(torch.float16)
    small = rounded.abs() < SMALLEST_NORMAL
    return Weights(
        count=weights.numel(),
        overflowing=int((~rounded.isfinite()).sum()),
        vanishing=int(((rounded == 0) & (weights != 0)).sum()),
        subnormal=int((small & (rounded != 0)).sum()),
    )


def peaks(recogniser: Recogniser, pixels: Tensor) -> dict[str, float]:
    """Returns the largest magnitude that each layer of a folded network gives on these images, in FP32.

    Args:
        recogniser: With a network as `fold` returns it.
        pixels: uint8 [N, 1, 28, 28].

    Returns:
        By the layer's name in the network, in the order of computation. What is above `LARGEST` overflows in FP16.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            peak = made.detach().abs().amax()
            found[name] = torch.maximum(found[name], peak) if name in found else peak

        return layer.register_forward_hook(note)

    # Activations are computed in place: only what convolutions and linear layers give is a value of its own.
    layers = {
        f"{name} {type(layer).__name__}": layer
        for name, layer in recogniser.network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        with torch.inference_mode():
            for part in torch.split(pixels, _BATCH):
                recogniser(part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(peak) for name, peak in found.items()}
