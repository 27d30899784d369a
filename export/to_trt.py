"""`python -m export.to_trt best.pt`: make a bundle with a TensorRT FP16 plan for this machine's GPU.

First the ONNX bundle of `export.to_onnx`, parity check included, which serves on its own; then the plan. Where
TensorRT is missing the bundle is left as it is and the exit status says that there is no plan.

This version stops before the plan everywhere, and says so.
"""

import importlib.util
import sys
from dataclasses import dataclass
from typing import Literal, NoReturn

import tyro

from export import command, to_onnx
from export.errors import ExportError, MissingLibraryError, OptionError

# What provides each product's builder, and what brings it in.
PRODUCTS = {
    "tensorrt": ("tensorrt", "pip install '.[gpu]'"),
    "tensorrt-rtx": ("tensorrt_rtx", "pip install tensorrt-rtx"),
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The batch sizes that a plan accepts, and the one it is tuned for."""

    min: int
    opt: int
    max: int

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Read "MIN:OPT:MAX".

        Raises:
            OptionError: It is not three whole numbers, or they are out of order.
        """
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise OptionError(f"--batch is {text!r}; MIN:OPT:MAX was expected, such as 1:32:256")
        low, best, high = map(int, parts)
        if not 1 <= low <= best <= high:
            raise OptionError(f"--batch is {text!r}; 1 ≤ MIN ≤ OPT ≤ MAX was expected")
        return cls(min=low, opt=best, max=high)


@dataclass(frozen=True, kw_only=True)
class Options(to_onnx.Options):
    """Options of `to_onnx`, and those of the plan."""

    product: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"
    """Which builder to use. auto: TensorRT if it is installed, else TensorRT for RTX."""

    precision: Literal["fp16", "fp32"] = "fp16"
    """Arithmetic of the plan."""

    batch: str = "1:32:256"
    """Batch sizes of the plan, MIN:OPT:MAX: the range it accepts, and the size it is tuned for."""


def export(options: Options) -> NoReturn:
    """Publish the ONNX bundle, then build the plan.

    Raises:
        MissingLibraryError: No builder is installed; the ONNX bundle was published.
        ExportError: There is no plan; the message says whether there is an ONNX bundle.
        TrainError, BundleError, ServeError: Nothing was published.
    """
    Profile.parse(options.batch)
    bundle = to_onnx.export(options)
    product = find_product(options.product)
    raise ExportError(
        f"{product} is installed, but this version does not build plans yet; "
        f"the bundle {bundle.path} serves with ONNX Runtime"
    )


def find_product(wanted: str) -> str:
    """The builder to use.

    Raises:
        MissingLibraryError: The wanted one, or any, is not installed.
    """
    candidates = list(PRODUCTS) if wanted == "auto" else [wanted]
    for product in candidates:
        if importlib.util.find_spec(PRODUCTS[product][0]):
            return product
    how = ", or ".join(f"`{PRODUCTS[product][1]}` for {product}" for product in candidates)
    raise MissingLibraryError(
        f"no plan was built: {' or '.join(candidates)} is not installed; {how}, on the machine that has the GPU; "
        "the ONNX bundle is complete and serves without it"
    )


def main() -> int:
    """Exit status: 0 when bundle and plan were published, another when they were not."""
    options = tyro.cli(Options, prog="python -m export.to_trt", description=__doc__)
    return command.run(lambda: export(options), interrupted="no plan was published")


if __name__ == "__main__":
    sys.exit(main())
