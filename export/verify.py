"""`python -m export.verify BUNDLE`: does a bundle hold what its manifest says?

Checked are the manifest, the size and digest of every file, the types in each graph, and that each plan was built from
a graph of this bundle. With --parity the gate runs again on this machine, without the checkpoint: every graph on ONNX
Runtime, and every plan that fits the GPU here, against the FP32 graph on every labelled test image.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast

import onnx
import torch
import tyro
from google.protobuf.message import DecodeError

from bundle import MANIFEST_NAME, Bundle, BundleError, Manifest, ManifestError
from bundle.manifest import INPUT, OUTPUT, Gpu, Plan
from export import command, gate, graph, parity, to_onnx
from export.errors import ExportError, GraphError, OptionError
from export.gate import Check, TestSet
from export.graph import Precision
from export.tolerances import DEFAULTS, Tolerances
from export.tolerances import load as load_tolerances
from serve.engines import products
from serve.engines.gpu import find_gpu
from serve.engines.onnx_runtime import GRAPH, open_onnx_runtime
from serve.engines.selection import mismatch
from serve.errors import ServeError

# What a program could load: where such a file is not listed, nothing says what it is.
_MODELS = (".onnx", ".data", ".plan", ".engine", ".trt")

State = Literal["passed", "REFUSED", "not run", "noted"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder made by `python -m export.to_onnx` or `python -m export.to_trt`."""

    parity: bool = False
    """Compare the answers as well, on the test images of the data that the model was trained on."""

    data_root: Path | None = None
    """With --parity: folder that holds MNIST/raw. Default: the environment variable DIGITS_DATA_ROOT, else `data`."""

    tolerances: Path | None = None
    """With --parity: TOML file with other bounds, such as `[fp16]` and `max_difference = 0.02`."""

    def __post_init__(self) -> None:
        """Refuse what would be ignored."""
        if not self.parity and (self.data_root, self.tolerances) != (None, None):
            raise OptionError("--data-root and --tolerances belong to --parity; add it, or leave them out")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of one check: a line of the output."""

    state: State
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.state:<8} {self.subject}: {self.text}"


def verify(options: Options) -> None:
    """Check a bundle; says on standard output what was checked, one line each.

    Raises:
        ExportError, TrainError, BundleError, ServeError: Something is wrong, or could not be checked.
    """
    tolerances = load_tolerances(options.tolerances)
    bundle = _open(options.bundle)
    _require_passed(bundle, _told(inspect(bundle)))
    if options.parity:
        _require_passed(bundle, _told(_parity(bundle, options.data_root, tolerances)))


def open_verified(path: Path) -> Bundle:
    """A bundle that has passed every check that needs no data.

    Raises:
        ExportError, BundleError: It has not.
    """
    bundle = _open(path)
    _require_passed(bundle, inspect(bundle))
    return bundle


def inspect(bundle: Bundle) -> Iterator[Result]:
    """Every check that needs no data: the manifest, each file that it lists, and what else lies in the folder."""
    manifest = bundle.manifest
    if wrong := _contract(manifest):
        yield Result(state="REFUSED", subject=MANIFEST_NAME, text=f"{wrong}; export the model again")
    else:
        text = f"format {manifest.format}, {manifest.name} version {manifest.version}"
        yield Result(state="passed", subject=MANIFEST_NAME, text=text)
    for name in sorted(manifest.files.keys() | manifest.graphs.keys() | manifest.plans.keys()):
        try:
            yield Result(state="passed", subject=name, text=_inspect_file(bundle, name))
        except GraphError as error:
            yield Result(state="REFUSED", subject=name, text=f"{error}; export the model again")
        except (BundleError, ExportError) as error:
            yield Result(state="REFUSED", subject=name, text=str(error))
    for path in sorted(bundle.path.iterdir()):
        if path.name not in {MANIFEST_NAME, *manifest.files}:
            yield _unlisted(path)


def _open(path: Path) -> Bundle:
    """A bundle whose manifest can be read; its files are checked one by one, so that each finding is told."""
    try:
        return Bundle.open(path)
    except ManifestError:
        raise
    except BundleError:
        if not (path / MANIFEST_NAME).is_file():
            raise
        return Bundle(path=path, manifest=Manifest.from_json((path / MANIFEST_NAME).read_bytes()))


def _told(results: Iterable[Result]) -> Iterator[Result]:
    for result in results:
        print(result, flush=True)
        yield result


def _require_passed(bundle: Bundle, results: Iterable[Result]) -> None:
    refused = [result for result in results if result.state == "REFUSED"]
    if refused:
        raise ExportError(
            f"{bundle.path} is not what it says: " + "; ".join(f"{result.subject}: {result.text}" for result in refused)
        )


def _contract(manifest: Manifest) -> str | None:
    """What serving would refuse in a manifest that can be read."""
    for kind, found, expected in (("input", manifest.input, INPUT), ("output", manifest.output, OUTPUT)):
        if found != expected:
            return f"the {kind} is {found}, {expected} was expected"
    if GRAPH not in manifest.graphs:
        return f"it describes the graphs {sorted(manifest.graphs)}; {GRAPH} was expected among them"
    return None


def _inspect_file(bundle: Bundle, name: str) -> str:
    """Check a listed file; returns what it is.

    Raises:
        BundleError: It is missing, or another than was published.
        ExportError: It is no graph, or no plan, as the manifest describes it.
    """
    content = bundle.read(name)
    text = f"{len(content):,} bytes with the digest listed"
    if described := bundle.manifest.graphs.get(name):
        _check_graph(content, described.precision)
        text += f", graph in {described.precision.upper()}"
    if plan := bundle.manifest.plans.get(name):
        text += f", plan of {plan.product} {plan.version} in {plan.precision.upper()} from {_origin(bundle, plan)}"
    return text


def _check_graph(content: bytes, precision: str) -> None:
    if precision not in DEFAULTS:
        raise GraphError(f"its precision is {precision!r}; {' or '.join(DEFAULTS)} was expected")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise GraphError("it is no ONNX graph") from error
    graph.check(model, cast(Precision, precision))


def _origin(bundle: Bundle, plan: Plan) -> str:
    """The graph that a plan was built from."""
    digests = {bundle.manifest.files[name].sha256: name for name in bundle.manifest.graphs}
    name = digests.get(plan.graph_sha256)
    if name is None:
        raise ExportError(
            f"it was built from a graph with SHA-256 {plan.graph_sha256}, which is none of the bundle's; build it "
            f"again with python -m export.to_trt --bundle {bundle.path}"
        )
    made = bundle.manifest.graphs[name].precision
    if made != plan.precision:
        raise ExportError(
            f"it is described as {plan.precision}, but was built from {name}, which is {made}; build it again with "
            f"python -m export.to_trt --bundle {bundle.path}"
        )
    return name


def _unlisted(path: Path) -> Result:
    if path.suffix in _MODELS:
        return Result(state="REFUSED", subject=path.name, text="the manifest does not list it; remove it")
    text = "the manifest does not list it, so it was not checked; an export to this folder will not replace it"
    return Result(state="noted", subject=path.name, text=text)


def _parity(bundle: Bundle, data_root: Path | None, tolerances: Mapping[str, Tolerances]) -> Iterator[Result]:
    """The gate, with the FP32 graph as the reference."""
    trained_on = bundle.manifest.checkpoint.trained.get("data")
    if not isinstance(trained_on, dict) or not {"name", "sha256"} <= trained_on.keys():
        raise ExportError(
            f"{bundle.path}: the manifest's checkpoint.trained.data is {trained_on!r:.60}; name and sha256 of a data "
            "set were expected; export the model again"
        )
    dataset = to_onnx.load_data(trained_on, data_root)
    with open_onnx_runtime(bundle.read(GRAPH), threads=torch.get_num_threads()) as engine:
        run = engine.run
        test = TestSet.of(dataset, "onnx fp32", lambda pixels: gate.in_batches(run, pixels, [256]))
    yield _accuracy(bundle, test)
    for name, described in sorted(bundle.manifest.graphs.items(), reverse=True):
        bounds = tolerances[described.precision]
        with open_onnx_runtime(bundle.read(name), threads=torch.get_num_threads()) as engine:
            check = partial(gate.check_engine, f"{name} on ONNX Runtime", test, engine.run, bounds)
            yield _result(check(gate.BATCH_SIZES, each=False))
    gpu = find_gpu()
    for name, plan in sorted(bundle.manifest.plans.items()):
        yield _run_plan(bundle, name, plan, gpu, test, tolerances[plan.precision])


def _accuracy(bundle: Bundle, test: TestSet) -> Result:
    """Whether the FP32 graph is as good here as it was where it was published."""
    found = parity.measure(test.reference, test.reference, test.labels)
    said = bundle.manifest.graphs[GRAPH].parity
    subject = f"accuracy of {GRAPH}"
    text = f"{found.reference_accuracy:.2%} of {found.images:,} test images, as the manifest says"
    if (found.reference_accuracy, found.images) == (said.candidate_accuracy, said.images):
        return Result(state="passed", subject=subject, text=text)
    return Result(
        state="REFUSED",
        subject=subject,
        text=f"{found.reference_accuracy:.4%} of {found.images:,} test images; the manifest says "
        f"{said.candidate_accuracy:.4%} of {said.images:,}; export the model again",
    )


def _run_plan(bundle: Bundle, name: str, plan: Plan, gpu: Gpu | str, test: TestSet, tolerances: Tolerances) -> Result:
    """Every test image at every batch size of the plan, where this machine can run it."""
    reason = gpu if isinstance(gpu, str) else mismatch(plan, bundle, gpu)
    if reason is None:
        try:
            products.choose(products.PRODUCTS[plan.product])
        except RuntimeError as error:  # the bundle has plans of both products
            reason = str(error)
    if reason is not None:
        return Result(state="not run", subject=name, text=reason)
    from serve.engines.tensorrt import TensorRtEngine, open_tensorrt  # imports TensorRT

    try:
        with open_tensorrt(bundle.read(name), plan) as engine:
            assert isinstance(engine, TensorRtEngine)
            return _result(gate.check_engine(name, test, engine.run, tolerances, engine.sizes, each=True))
    except ServeError as error:
        return Result(state="REFUSED", subject=name, text=str(error))


def _result(check: Check) -> Result:
    if not check.passed:
        return Result(state="REFUSED", subject=check.name, text="; ".join(check.findings))
    found = check.comparison
    assert found is not None
    return Result(
        state="passed",
        subject=check.name,
        text=f"{found.images:,} images, {len(found.flips)} digits changed, difference up to {found.max_difference:.2g}"
        f", between batches up to {check.batch_difference:.2g}",
    )


def main() -> int:
    """Exit status: 0 when nothing is wrong, another when something is."""
    return command.run(
        lambda: verify(tyro.cli(Options, prog="python -m export.verify", description=__doc__)),
        interrupted="not everything was checked",
    )


if __name__ == "__main__":
    sys.exit(main())
