"""`python -m train.summary NAME`: the layers of an architecture, computed from the network itself."""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.errors import unknown_name
from train.models import ARCHITECTURES, build

_IMAGE = (1, 1, 28, 28)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer as it works on one image.

    Attributes:
        name: Its kind and what distinguishes it.
        shape: Of its output, without the batch.
        parameters: Trainable ones.
        multiply_adds: Of convolutions and linear layers; 0 for all others.
        receptive_field: Side, in pixels of the image, of the square that one output value sees; None once a layer has
            joined all places.
        jump: Pixels of the image between neighbouring output values; None likewise.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: int | None
    jump: int | None


def summarise(network: nn.Module) -> list[Layer]:
    """The layers in the order in which an image passes them."""
    layers: list[Layer] = []
    field, jump = 1, 1
    spread = True  # whether values still belong to places of the image
    for module, output in _calls(network):
        spread = spread and output.ndim == 4
        # r' = r + (k - 1) j and j' = j s, for a kernel of k and a stride of s: Araujo et al., "Computing Receptive
        # Fields of Convolutional Neural Networks", Distill 2019, equations 1 and 2.
        kernel, stride = _window(module)
        field, jump = field + (kernel - 1) * jump, jump * stride
        layers.append(
            Layer(
                name=_name(module),
                shape=tuple(output.shape[1:]),
                parameters=sum(each.numel() for each in module.parameters() if each.requires_grad),
                multiply_adds=_multiply_adds(module, output),
                receptive_field=field if spread else None,
                jump=jump if spread else None,
            )
        )
    return layers


def table(layers: list[Layer]) -> str:
    """The layers for people, one line each, and their totals."""
    heads = ("layer", "output", "parameters", "multiply-adds", "receptive field", "jump")
    rows = [
        (
            layer.name,
            " x ".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
            "-" if layer.receptive_field is None else str(layer.receptive_field),
            "-" if layer.jump is None else str(layer.jump),
        )
        for layer in layers
    ]
    total = (
        "total",
        "",
        f"{sum(layer.parameters for layer in layers):,}",
        f"{sum(layer.multiply_adds for layer in layers):,}",
        "",
        "",
    )
    widths = [max(map(len, column)) for column in zip(heads, *rows, total, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        name, *figures = row
        cells = (cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True))
        return "  ".join((name.ljust(widths[0]), *cells)).rstrip()

    return "\n".join(map(line, (heads, *rows, total)))


def _calls(network: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """Each layer without layers of its own, with its output for one black image, in order of execution."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        calls.append((module, output))

    hooks = [module.register_forward_hook(note) for module in network.modules() if not list(module.children())]
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(_IMAGE))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _window(module: nn.Module) -> tuple[int, int]:
    """Kernel and stride of a square window; 1 and 1 for a layer that looks at each place by itself."""
    match module:
        case nn.Conv2d() | nn.MaxPool2d() | nn.AvgPool2d():
            return _side(module.kernel_size), _side(module.stride)
        case _:
            return 1, 1


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _multiply_adds(module: nn.Module, output: Tensor) -> int:
    match module:
        case nn.Conv2d():
            return output.numel() * module.weight[0].numel()
        case nn.Linear():
            return module.weight.numel()
        case _:
            return 0


def _name(module: nn.Module) -> str:
    match module:
        case nn.Conv2d():
            side = _side(module.kernel_size)
            return f"Conv2d {module.in_channels}-{module.out_channels}, {side} x {side}"
        case nn.Linear():
            return f"Linear {module.in_features}-{module.out_features}"
        case _:
            return type(module).__name__


def main() -> int:
    """Exit status: 0, or 2 for an architecture that is not known."""
    names = [name for name in ARCHITECTURES if name != "committee"]
    usage = f"usage: python -m train.summary NAME, one of {', '.join(names)}"
    match sys.argv[1:]:
        case ["-h" | "--help"]:
            print(usage)
            return 0
        case [name] if name in names:
            print(table(summarise(build(name))))
            return 0
        case ["committee"]:
            print(f"error: a committee has the layers of its members; name one: {', '.join(names)}", file=sys.stderr)
        case [name]:
            print(f"error: {unknown_name('architecture', name, names)}", file=sys.stderr)
        case _:
            print(usage, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
