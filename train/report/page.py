"""The page that shows an evaluation: one file that needs no other, no script and no network."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from train.report.figures import GRID_IMAGES

TEMPLATE = "page.html.j2"


def render(document: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Writes the page.

    Args:
        document: What `evaluation.json` holds.
        figures: PNG files by name. Those that are absent are left out; why, the document's notes say.
    """
    environment = Environment(
        loader=PackageLoader("train", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "count": _count, "data_uri": _data_uri}
    return environment.get_template(TEMPLATE).render(document, figures=figures, grid_images=GRID_IMAGES)


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _count(number: int) -> str:
    return f"{number:,}"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"
