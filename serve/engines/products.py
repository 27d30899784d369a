"""Which TensorRT: NVIDIA's TensorRT, or TensorRT for RTX, its sibling with the same Python interface.

One process works with one of them: both keep state of their own for the whole process. So the choice is made once, and
the modules that import TensorRT, one here and one in `export`, take what was chosen.
"""

import importlib
import importlib.metadata
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from types import ModuleType


@dataclass(frozen=True, kw_only=True)
class Product:
    """A TensorRT: its name in options, manifests and package registries, its Python module, and what installs it."""

    name: str
    module: str
    install: str

    def version(self) -> str | None:
        """The installed version, found without loading the library; None where there is none."""
        for distribution in (self.name, f"{self.name}-cu13", f"{self.name}-cu12"):
            with suppress(PackageNotFoundError):
                return importlib.metadata.version(distribution)
        return None


TENSORRT = Product(name="tensorrt", module="tensorrt", install="pip install '.[gpu]'")
TENSORRT_RTX = Product(name="tensorrt-rtx", module="tensorrt_rtx", install="pip install '.[rtx]'")
PRODUCTS = {product.name: product for product in (TENSORRT, TENSORRT_RTX)}

_chosen: Product | None = None


def find(wanted: str = "auto") -> Product | None:
    """The product of that name, or the first of all with "auto", that is installed; None if it is not."""
    candidates = PRODUCTS.values() if wanted == "auto" else [PRODUCTS[wanted]]
    return next((product for product in candidates if importlib.util.find_spec(product.module)), None)


def choose(product: Product) -> None:
    """Make a product the one that this process works with.

    Raises:
        RuntimeError: It works with another already.
    """
    global _chosen
    if _chosen not in (None, product):
        raise RuntimeError(f"this process works with {_chosen.name} already, {product.name} needs one of its own")
    _chosen = product


def chosen() -> Product:
    """The product that this process works with: what was chosen, else the first that is installed.

    Raises:
        ImportError: None is installed.
    """
    product = _chosen or find()
    if product is None:
        raise ImportError("neither tensorrt nor tensorrt_rtx is installed")
    choose(product)
    return product


def module() -> ModuleType:
    """The chosen product's Python module; errors as above."""
    return importlib.import_module(chosen().module)
