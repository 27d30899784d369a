"""`python -m export.to_onnx best.pt`: make a bundle that serves on ONNX Runtime.

The bundle holds the graph in FP32 and in FP16, and is published only when the gate (`export.gate`) finds nothing wrong
with either on the checkpoint's labelled test set. A few of those images go along, for servers to check themselves by.
"""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import onnx
import torch
import tyro

import train.checkpoint
import train.data
from bundle import Bundle, Manifest
from bundle.manifest import INPUT, OUTPUT, Checkpoint, Graph, Normalisation, Parity, check_identity
from bundle.probe import PROBE
from bundle.store import check_target, publish
from export import card, command, gate, graph, half, page, probe
from export.errors import ExportError, ParityError
from export.gate import Check, Report, TestSet
from export.graph import Precision
from export.parity import Probabilities
from export.tolerances import Tolerances
from export.tolerances import load as load_tolerances
from serve.engines import Pixels
from serve.engines.onnx_runtime import GRAPH, HALF_GRAPH, INT8_GRAPH, open_onnx_runtime
from train.data import Dataset
from train.errors import TrainError
from train.inference import accuracy, predict
from train.models import MEAN, STD, Recogniser
from train.storage import make_folder, read_bytes, write_bytes

# FP16 is slow on a CPU: the images on which the reference is least sure.
_HALF_IMAGES = 2000

REPORT = "parity.json"

# Every graph that a bundle can hold, in the order in which they are checked.
PRECISIONS: dict[str, Precision] = {GRAPH: "fp32", INT8_GRAPH: "int8", HALF_GRAPH: "fp16"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is published where, and what it is held against. The fields' docstrings are the command line's help."""

    output: Path | None = None
    """Where to publish the bundle. Default: the folder `bundle` beside the checkpoint. An older bundle is replaced."""

    name: str | None = None
    """Name under which the model is served. Default: the name of its architecture."""

    version: str = "1"
    """Version under which the model is served, a whole number."""

    tolerances: Path | None = None
    """TOML file with other bounds for the gate, such as `[fp16]` and `max_difference = 0.02`; they are recorded."""

    int8: bool = False
    """Add a graph in INT8, calibrated on training images, which a server on a CPU then prefers."""

    data_root: Path | None = None
    """Folder that holds MNIST/raw. Default: the environment variable DIGITS_DATA_ROOT, else `data`."""


@dataclass(frozen=True, kw_only=True)
class Options(Target):
    """Options of an export."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Checkpoint written by `python -m train`, such as runs/compact/best.pt."""

    @property
    def target(self) -> Path:
        """`output`, or its default."""
        return self.output or self.checkpoint.parent / "bundle"


def export(options: Options) -> Bundle:
    """Convert, check, compare, publish; says on standard output what it does.

    Raises:
        ExportError, TrainError, BundleError, ServeError: Nothing was published.
    """
    tolerances = load_tolerances(options.tolerances)
    check_target(options.target)
    with stage("load"):
        # Read once: training may replace the file at any moment.
        stored = read_bytes(options.checkpoint)
        checkpoint = train.checkpoint.parse(stored, options.checkpoint)
        name = options.name or checkpoint.architecture
        check_identity(name, options.version)
        recogniser = checkpoint.recogniser()
        dataset = load_data(checkpoint.data, options.data_root)
    with stage("convert to FP32 and FP16"):
        folded, halved = half.folded(recogniser), half.halve(recogniser)
        graphs = {GRAPH: _convert(folded, "fp32"), HALF_GRAPH: _convert(halved, "fp16")}
    if options.int8:
        with stage("quantise to INT8"):
            graphs[INT8_GRAPH] = _quantise(graphs[GRAPH], dataset)
    # Nearly twice as fast on a CPU, and only now: the graphs' bytes must not depend on how weights lie in memory.
    for network in (recogniser, folded, halved):
        network.to(memory_format=torch.channels_last)
    with stage(f"PyTorch in FP32 on {len(dataset.test):,} images"):
        test = TestSet.of(dataset, "torch fp32", lambda pixels: predict(recogniser, dataset.test))
    _require_recorded_accuracy(checkpoint.metrics, test, tolerances["fp32"])
    report = Report(
        model={"name": name, "version": options.version},
        data=test.data,
        images=len(test.labels),
        tolerances=tolerances,
        checks=list(_checks(folded, halved, graphs, test, tolerances)),
    )
    report = dataclasses.replace(report, pictures=gate.pictures(test, report.checks))
    document = report.to_json()
    refused = refused_page(options.target)
    require_passed(document, refused)
    origin = Checkpoint(
        sha256=hashlib.sha256(stored).hexdigest(),
        trained={
            field.name: getattr(checkpoint, field.name)
            for field in dataclasses.fields(checkpoint)
            if field.name != "weights"
        },
    )
    manifest = _describe(name, options.version, origin, report)
    bundle = publish(options.target, manifest, graphs | {PROBE: probe.choose(test)} | documents(manifest, document))
    refused.unlink(missing_ok=True)
    print(f"published {bundle.path}")
    return bundle


def _require_recorded_accuracy(metrics: Mapping[str, float], test: TestSet, tolerances: Tolerances) -> None:
    """Lets only a network through that is as good as its checkpoint, and so the card, says.

    Raises:
        ParityError: It is worse.
    """
    found = accuracy(test.reference, test.labels)
    recorded = metrics.get("test_accuracy", found)  # a run that was interrupted has recorded none
    if not recorded - found <= tolerances.accuracy_drop(len(test.labels)):
        raise ParityError(
            f"nothing is published: the checkpoint records an accuracy of {recorded:.2%} on the test images, but its "
            f"network has {found:.2%} here, so its weights or this program have changed since; train again, or export "
            "with the version that trained it"
        )


def _convert(recogniser: Recogniser, precision: Precision) -> bytes:
    model = graph.convert(recogniser)
    graph.check(model, precision)
    return model.SerializeToString(deterministic=True)


def _quantise(content: bytes, dataset: Dataset) -> bytes:
    from export.quantise import quantise  # imports the quantiser, for the one export in many that asks for it

    model = quantise(onnx.load_from_string(content), dataset.train.pixels.numpy())
    graph.check(model, "int8")
    return model.SerializeToString(deterministic=True)


def _checks(
    folded: Recogniser,
    halved: Recogniser,
    graphs: Mapping[str, bytes],
    test: TestSet,
    tolerances: Mapping[str, Tolerances],
) -> Iterator[Check]:
    """Everything that can be known without a plan, in the order of `export.gate`."""
    for name, precision in PRECISIONS.items():
        if name not in graphs:
            continue
        with open_onnx_runtime(graphs[name], threads=torch.get_num_threads()) as engine, announced() as check:
            bounds = tolerances[precision]
            yield check(gate.check_engine(f"onnx {precision}", test, engine.run, bounds, gate.BATCH_SIZES, each=False))
    with announced() as check:
        least_decided = test.least_decided(_HALF_IMAGES)
        yield check(gate.check_answers("torch fp16", test, _runner(halved), tolerances["fp16"], least_decided))
    with announced() as check:
        peaks = half.peaks(folded, torch.from_numpy(test.pixels))
        weights = dataclasses.asdict(half.round_weights(folded.network))
        yield check(gate.check_range("range fp16", peaks, weights, half.LARGEST, tolerances["fp16"]))


def _runner(recogniser: Recogniser) -> gate.Run:
    """A network in PyTorch, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = recogniser.to(device)

    def run(pixels: Pixels) -> Probabilities:
        with torch.inference_mode():
            parts = [network(part.to(device)).cpu() for part in torch.split(torch.from_numpy(pixels), 250)]
        answers: Probabilities = torch.cat(parts).numpy()
        return answers

    return run


@contextmanager
def announced() -> Iterator[Callable[[Check], Check]]:
    """Prints the line of a check, and how long it took."""
    started = time.perf_counter()

    def tell(check: Check) -> Check:
        print(f"  {describe(check)}  {time.perf_counter() - started:.1f} s", flush=True)
        return check

    yield tell


def describe(check: Check) -> str:
    """A check in a line."""
    words = []
    if found := check.comparison:
        words += [
            f"{found.images:>6,} images",
            f"{len(found.flips)} digits changed",
            f"difference up to {found.max_difference:.2g}",
            f"accuracy {found.candidate_accuracy:.2%}",
        ]
    if values := check.range:
        words += [
            f"values up to {max(values['peaks'].values()):.3g} of {half.LARGEST:,.0f}",
            f"{values['weights']['overflowing']} of {values['weights']['count']:,} weights beyond that",
        ]
    return f"{check.name:<12} {'passed ' if check.passed else 'REFUSED'} {', '.join(words)}"


def require_passed(report: Mapping[str, Any], refused: Path, outcome: str = "nothing is published") -> None:
    """Lets only a report without findings through.

    Args:
        report: What `parity.json` would hold.
        refused: Where the page of a report with findings is left.
        outcome: What findings mean for the bundle, for people.

    Raises:
        ParityError: Something is wrong.
    """
    findings = [f"{check['name']}: {finding}" for check in report["checks"] for finding in check["findings"]]
    if not findings:
        return
    try:
        make_folder(refused.parent, "choose another folder")
        write_bytes(refused, page.render(report, outcome).encode())
        more = f"see {refused}"
    except TrainError as error:  # which must not hide the findings
        more = f"there is no report: {error}"
    raise ParityError(f"{outcome}: {'; '.join(findings)}; {more}")


def refused_page(target: Path) -> Path:
    """Where the page of a refusal lies: beside the bundle's place."""
    target = target.resolve()  # "." gets a name
    return target.with_name(f"{target.name}-refused.html")


def documents(manifest: Manifest, report: dict[str, Any]) -> dict[str, bytes]:
    """What a bundle holds for people, by file name."""
    return {
        REPORT: (json.dumps(report, indent=2) + "\n").encode(),
        "parity.html": page.render(report).encode(),
        "README.md": card.write(manifest).encode(),
    }


def load_data(trained_on: Mapping[str, str], root: Path | None) -> Dataset:
    """The data set that a checkpoint was trained and tested on, of that name and digest."""
    dataset = train.data.load(trained_on["name"], root)
    if dataset.sha256 != trained_on["sha256"]:
        raise ExportError(
            f"the checkpoint was trained on {dataset.name} with SHA-256 {trained_on['sha256']}, but the one found "
            f"here has {dataset.sha256}; name the right folder with --data-root, or train again"
        )
    return dataset


def _describe(name: str, version: str, origin: Checkpoint, report: Report) -> Manifest:
    checks = {check.name: check for check in report.checks}
    return Manifest(
        name=name,
        version=version,
        architecture=origin.trained["architecture"],
        labels=[str(digit) for digit in range(10)],
        input=INPUT,
        output=OUTPUT,
        normalisation=Normalisation(mean=MEAN, std=STD),
        files={},
        graphs={
            name: Graph(precision=precision, parity=summary(checks[f"onnx {precision}"]))
            for name, precision in PRECISIONS.items()
            if f"onnx {precision}" in checks
        },
        plans={},
        checkpoint=origin,
        versions={"torch": torch.__version__, "onnx": onnx.__version__},
    )


def summary(check: Check) -> Parity:
    """What the manifest says of a comparison."""
    found = check.comparison
    assert found is not None
    return Parity(
        images=found.images,
        flips=len(found.flips),
        max_difference=found.max_difference,
        reference_accuracy=found.reference_accuracy,
        candidate_accuracy=found.candidate_accuracy,
    )


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Prints what is being done, and how long it took."""
    print(f"{title} …", end=" ", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.perf_counter() - started:.1f} s", flush=True)


def main() -> int:
    """Exit status: 0 when the bundle was published, another when it was not."""
    options = tyro.cli(Options, prog="python -m export.to_onnx", description=__doc__)
    return command.run(lambda: export(options), interrupted="nothing was published")


if __name__ == "__main__":
    sys.exit(main())
