"""`python -m benchmarks.report`: bring the README's tables in line with the committed results."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.serving import (
    CONFIGURATIONS,
    DEADLINE_MS,
    FEW_IMAGES,
    MANY_IMAGES,
    NETWORKS,
    OPEN_LOOP,
    OVERLOAD,
    STEADY_LOAD,
)

ROOT = Path(__file__).resolve().parents[1]


def serving_table(result: dict[str, Any]) -> str:
    """The figures of `results/serving.json` as Markdown."""
    conditions, medians = result["conditions"], result["medians"]
    where = f"{conditions['cores']} cores of {conditions['cpu']}, ONNX Runtime {conditions['versions']['onnxruntime']}"
    lines = [f"| one server on {where} | median | lowest to highest |", "|---|---:|---:|"]
    for label, name, form, unit in _serving_rows(medians):
        values = [repeat[name] for repeat in result["repeats"]]
        extent = f"{min(values):{form}} to {max(values):{form}}"
        lines.append(f"| {label} | {medians[name]:{form}}{unit} | {extent} |")
    return "\n".join(lines)


def _serving_rows(medians: dict[str, float]) -> Iterator[tuple[str, str, str, str]]:
    """What each row says, the figure that it shows, its format and its unit."""
    yield "`compact`, one caller, one image a request: median latency", "1 caller, p50 ms", ".2f", " ms"
    yield "… 64 callers", "64 callers, requests/s", ",.0f", " requests/s"
    yield "… as a share of a gRPC server that does nothing", "64 callers, share of the echo server", ".0%", ""
    yield "… on 4 streams", "4 streams, messages/s", ",.0f", " messages/s"
    yield "… times 64 callers without streams", "4 streams, times 64 callers", ".1f", ""
    yield "… 8 callers, 64 images a request", "64-image requests, images/s", ",.0f", " images/s"
    alone = "64-image requests, share of "
    yield "… as a share of ONNX Runtime alone, a stock session given 64 at a time", alone + "stock session", ".0%", ""
    yield "… as a share of ONNX Runtime alone, one session per core", alone + "session per core", ".0%", ""
    for network in NETWORKS:
        rates = {name: medians[f"{network}, {name}, requests/s"] for name in CONFIGURATIONS}
        best = max(rates, key=lambda name: rates[name])
        label = f"{_quoted(network)}, 64 callers, served best, by {best}"
        yield label, f"{network}, {best}, requests/s", ",.0f", " requests/s"
    for network, count in OPEN_LOOP:
        name = f"{network}, {count} a request"
        images = medians[f"{name}, Poisson, images of the average engine call"]
        label = (
            f"{_quoted(network)}, {'one image' if count == 1 else f'{count} images'} a request, Poisson arrivals at "
        )
        label += f"{STEADY_LOAD:.0%} of what 64 callers get: 99th percentile"
        yield label, f"{name}, Poisson, p99 ms", ".1f", " ms"
        label = f"… in engine calls of the average {images:.1f} images"
        yield label, f"{name}, Poisson, p99 in engine calls", ".1f", ""
        label = f"… arrivals at {OVERLOAD:.0%}, deadlines of {DEADLINE_MS:.0f} ms: in time, of what 64 callers get"
        yield label, f"{name}, overload, share of capacity", ".0%", ""
        label = "… the same with `--max-pending-calls` for 8 ms of work"
        yield label, f"{name}, overload, few pending, share of capacity", ".0%", ""
    yield f"memory after {FEW_IMAGES:,} images", f"resident MB after {FEW_IMAGES:,} images", ".0f", " MB"
    yield f"… growth until {MANY_IMAGES:,}", "resident memory, growth", ".1%", ""


def _quoted(network: str) -> str:
    name, space, rest = network.partition(" ")
    return f"`{name}`{space}{rest}"


# The recipes in the order of the table, with the accuracy that their publications state.
_PUBLISHED = {
    "dropout_cnn": "99.24 %",
    "dropout_cnn_best": "",
    "four_conv": "none stated",
    "four_conv_best": "",
    "lenet_bn": "99.47 %",
    "lenet_bn_best": "",
    "compact": "99.56 %, chosen on the test images",
    "compact_best": "",
    "one_by_one": "98.16 %, on the training images",
    "one_by_one_best": "",
    "champion": "",
    "committee": "",
    "champion_taught": "",
}


def accuracy_table(results: Iterable[dict[str, Any]]) -> str:
    """The figures of all `results/accuracy-*.json` as Markdown, one row per recipe."""
    lines = [
        "| recipe | parameters | published | test accuracy: mean ± deviation | seeds: accuracies "
        "| corrupted test images | minutes per run |",
        "|---|---:|---|---:|---|---:|---:|",
    ]
    by_name = {result["recipe"]["name"]: result for result in results if result["data"]["name"] == "mnist"}
    for name, published in _PUBLISHED.items():
        if name not in by_name:
            continue
        result = by_name[name]
        mean, deviation, runs = result["mean"], result["standard_deviation"], result["runs"]
        cells = (
            f"`{name}`",
            f"{result['parameters']:,}",
            published,
            f"**{mean['test_accuracy']:.2%}**" + (f" ± {deviation['test_accuracy']:.2%}" if deviation else ""),
            f"{len(runs)}: {', '.join(format(run['test_accuracy'], '.2%') for run in runs)}" if runs else "",
            f"{mean['corruption_accuracy']:.1%}",
            f"{mean['seconds'] / 60:.1f}" if runs else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def training_table(result: dict[str, Any]) -> str:
    """The figures of `results/training.json` as Markdown."""
    conditions = result["conditions"]
    device = (
        conditions["device"]
        if conditions["device"] != "cpu"
        else f"{conditions['threads']} cores of {conditions['cpu']}"
    )
    lines = [
        f"| images/s on {device} | training in {conditions['precision']} | times the plain way | in float32 "
        "| evaluation | times the plain way |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, each in result["recipes"].items():
        lines.append(
            f"| `{name}` | {each['training, ours, images/s']:,} | {each['training, times the plain way']:.1f} "
            f"| {each['training, ours in float32, images/s']:,} "
            f"| {each['evaluation, ours, images/s']:,} | {each['evaluation, times the plain way']:.1f} |"
        )
    return "\n".join(lines)


def export_table(result: dict[str, Any]) -> str:
    """The figures of `results/export.json` as Markdown."""
    conditions = result["conditions"]
    lines = [
        f"| on {conditions['cores']} cores of {conditions['cpu']} | export, s | digits changed in FP16 "
        "| largest difference | digits changed in INT8 | largest difference | INT8, times the images/s of FP32 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in result["exports"]:
        cells = [f"`{each['architecture']}`", f"{each['seconds']:.0f}"]
        for check in (each["checks"]["onnx fp16"], each["checks"]["onnx int8"]):
            cells += [str(check["flips"]), f"{check['max_difference']:.1g}"]
        cells.append(f"{each['images_per_second']['int8 against fp32']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# Of what is called the hardest kind there are at least so many pictures.
_MANY_PICTURES = 50


def robustness_table(result: dict[str, Any]) -> str:
    """The figures of `results/robustness.json` as Markdown."""
    conditions = result["conditions"]
    lines = [
        f"| pictures, read and sent to `{conditions['model']}` on {conditions['cores']} cores of {conditions['cpu']} "
        "| right | 95 % interval | the same digits as MNIST has them | hardest kinds | ms to read | ms to call |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for style, each in result["styles"].items():
        low, high = each["accuracy, 95 % interval"]
        cells = (
            f"{each['pictures']:,} {style}s",
            f"**{each['accuracy']:.2%}**",
            f"{low:.1%} to {high:.1%}",
            f"{each['accuracy as MNIST has them']:.1%}",
            "; ".join(_hardest(each["factors"])),
            f"{each['read, mean ms']:.1f}",
            f"{each['call, mean ms']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _hardest(factors: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    kinds = [
        (figures["accuracy"], f"{name}: {value} {figures['accuracy']:.1%}")
        for name, values in factors.items()
        if name != "shows"
        for value, figures in values.items()
        if figures["pictures"] >= _MANY_PICTURES
    ]
    return [text for _, text in sorted(kinds)[:2]]


def update(readme: str) -> str:
    """The README's text with every table replaced by what the results say now."""
    results = ROOT / "benchmarks/results"

    def load(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((results / name).read_text())
        return content

    tables = {
        "serving": serving_table(load("serving.json")),
        "accuracy": accuracy_table(load(path.name) for path in results.glob("accuracy-*.json")),
        "export": export_table(load("export.json")),
        "training": training_table(load("training.json")),
        "robustness": robustness_table(load("robustness.json")),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, after = readme.partition(start)
        if not found or end not in after:
            raise ValueError(f"the README has no place for the table {name!r}: {start!r} … {end!r}")
        readme = f"{before}{start}{table}\n{end}{after.partition(end)[2]}"
    return readme


def main() -> int:
    """Exit status 0."""
    readme = ROOT / "README.md"
    readme.write_text(update(readme.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
