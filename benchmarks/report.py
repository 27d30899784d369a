"""`python -m benchmarks.report`: bring the README's tables in line with the committed results."""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def serving_table(result: dict[str, Any]) -> str:
    """The figures of `results/serving.json` as Markdown."""
    medians = result["medians"]
    rows = [
        ("one caller, one image a request: median latency", f"{medians['1 caller, p50 ms']:.2f} ms"),
        ("64 callers, one image a request", f"{medians['64 callers, 8 connections, requests/s']:,.0f} requests/s"),
        ("8 callers, 64 images a request", f"{medians['64-image requests, images/s']:,.0f} images/s"),
        (
            "… as a share of ONNX Runtime alone, a stock session given batches of 64",
            f"{medians['64-image requests, share of stock session']:.0%}",
        ),
        (
            "… as a share of ONNX Runtime alone, one session per core as the server has them",
            f"{medians['64-image requests, share of session per core']:.0%}",
        ),
        ("memory of the server after all that", f"{medians['server resident MB']:.0f} MB"),
    ]
    conditions = result["conditions"]
    where = f"{conditions['cores']} cores of {conditions['cpu']}, ONNX Runtime {conditions['versions']['onnxruntime']}"
    lines = [f"| `{result['model']['name']}`, one server process, {where} | measured |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {label} | {figure} |" for label, figure in rows)])


def update(readme: str) -> str:
    """The README's text with every table replaced by what the results say now."""
    table = serving_table(json.loads((ROOT / "benchmarks/results/serving.json").read_text()))
    return re.sub(
        r"(<!-- serving -->\n).*?(\n<!-- end -->)", lambda found: found[1] + table + found[2], readme, flags=re.S
    )


def main() -> int:
    """Exit status 0."""
    readme = ROOT / "README.md"
    readme.write_text(update(readme.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
