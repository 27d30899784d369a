"""The page that shows a parity report: one file that needs no other, no script and no network."""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from export.parity import CONFIDENCE_LEVEL, name_digit

_TOLERANCES = {
    "max_difference": "largest difference of a probability",
    "max_accuracy_drop": "accuracy lost, as a share of the images compared",
    "max_flip_margin": "lead of the reference where the digit may change",
    "max_batch_difference": "largest difference between batches",
    "min_headroom": "times a layer's largest value must fit below 65,504",
}


def render(document: Mapping[str, Any], outcome: str = "nothing is published") -> str:
    """Writes the page.

    Args:
        document: What `parity.json` holds.
        outcome: What findings, if there are any, mean for the bundle.
    """
    environment = Environment(
        loader=PackageLoader("export", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[[Any], str]] = {
        "count": lambda number: f"{number:,}",
        "digit": name_digit,
        "figure": lambda number: f"{number:.3g}",
        "percent": lambda share: f"{share:.2%}",
        "percent0": lambda share: f"{share:.0%}",
        "points": lambda share: f"{100 * share:+.3f}",
        "times": _times,
        "png": _png,
    }
    environment.filters |= filters
    return environment.get_template("parity.html.j2").render(
        document,
        shown={int(image) for image in document["pictures"]},
        passed=not any(check["findings"] for check in document["checks"]),
        outcome=outcome,
        confidence_level=CONFIDENCE_LEVEL,
        tolerance_texts=_TOLERANCES,
    )


def _times(number: float) -> str:
    """A positive number of any size, in full."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _png(pixels: str) -> str:
    """Pixels as the report has them to a picture that a page can hold: dark ink on white paper."""
    buffer = io.BytesIO()
    Image.eval(Image.frombytes("L", (28, 28), base64.b64decode(pixels)), lambda value: 255 - value).save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
