"""`python -m export.to_trt best.pt`: make a bundle with a TensorRT plan for this machine's GPU.

First the ONNX bundle of `export.to_onnx`, gate included, which serves on its own; then the plan, which goes through the
gate as well. `--bundle DIR` adds a plan to a bundle that is there, without its checkpoint. Where TensorRT is missing
the bundle is left as it is and the exit status says that there is no plan.

TensorRT for RTX builds without a GPU, too. Such a plan could not be run, and the bundle says so.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro
from tqdm import tqdm

from bundle import Bundle
from bundle.errors import ManifestError
from bundle.manifest import Gpu, Plan, Profile
from bundle.store import check_target, publish
from export import command, gate, to_onnx
from export.errors import MissingLibraryError, OptionError
from export.gate import Check, TestSet
from export.tolerances import Tolerances
from export.tolerances import load as load_tolerances
from serve.engines import products
from serve.engines.gpu import find_gpu
from serve.engines.onnx_runtime import GRAPH, HALF_GRAPH, open_onnx_runtime
from serve.engines.products import PRODUCTS, TENSORRT, Product

if TYPE_CHECKING:
    from export.plan import BuildOptions

_LARGEST_BATCH = 65536


@dataclass(frozen=True, kw_only=True)
class Options(to_onnx.Target):
    """Options of `to_onnx`, and those of the plan."""

    checkpoint: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")] = None
    """Checkpoint written by `python -m train`, such as runs/compact/best.pt."""

    bundle: Path | None = None
    """Bundle to add a plan to, instead of a checkpoint. A plan of the same kind in it is replaced."""

    product: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"
    """Which builder to use. auto: TensorRT if it is installed, else TensorRT for RTX, which needs no GPU to build."""

    precision: Literal["fp16", "fp32"] = "fp16"
    """Arithmetic of the plan. fp16 halves the weights and uses the GPU's matrix units; fp32 keeps every digit."""

    batch: tuple[str, ...] = ("1:32:256",)
    """Batch sizes of the plan, MIN:OPT:MAX: the range it accepts, and the size it is tuned for. Several make a plan
    that is tuned for several sizes, and takes as much longer to build."""

    builder_level: int = 3
    """0 to 5: how long to look for fast kernels. The higher, the longer the build; 0 takes the first kernel that works
    and ignores the timing cache."""

    workspace_mib: int | None = None
    """Most device memory, in MiB, that a kernel may take for itself. Less excludes fast kernels. Default:
    all there is."""

    compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which GPUs besides this one's kind may run the plan: ampere_plus all since Ampere, same_compute_capability those
    of one generation. Costs speed: fewer kernels can be used. TensorRT for RTX ignores it: its plans fit all RTX
    GPUs. The gate checks the plan on this one."""

    version_compatible: bool = False
    """Let later versions of TensorRT run the plan. Costs size, for it then brings a runtime of its own, which this
    project's server does not load: for other servers. Default: build again after an upgrade."""

    timing_cache: Path | None = None
    """Folder that keeps measured times of kernels, so that the next build for the same GPU and version takes seconds.
    Default: digits/timing in the user's cache folder."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself or is out of range, before any work."""
        if (self.checkpoint is None) == (self.bundle is None):
            raise OptionError("give either a checkpoint, such as runs/compact/best.pt, or --bundle DIR")
        if self.bundle is not None and (self.output, self.name, self.version, self.int8) != (None, None, "1", False):
            raise OptionError("--output, --name, --version and --int8 belong to a checkpoint; a bundle keeps its own")
        if not 0 <= self.builder_level <= 5:
            raise OptionError(f"--builder-level is {self.builder_level}; 0 to 5 was expected")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise OptionError(f"--workspace-mib is {self.workspace_mib}; at least 1 was expected")
        if not self.batch:
            raise OptionError("--batch names no sizes; MIN:OPT:MAX was expected, such as 1:32:256")
        _ = self.profiles

    @property
    def profiles(self) -> list[Profile]:
        """`batch` as numbers."""
        return [parse_profile(text) for text in self.batch]


def parse_profile(text: str) -> Profile:
    """Read "MIN:OPT:MAX".

    Raises:
        OptionError: It is not three whole numbers, or they are out of order or too large.
    """
    parts = text.split(":")
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise OptionError(f"--batch is {text!r}; MIN:OPT:MAX was expected, such as 1:32:256")
    low, best, high = map(int, parts)
    try:
        profile = Profile(min=low, opt=best, max=high)
    except ManifestError as error:
        raise OptionError(f"--batch is {text!r}; 1 ≤ MIN ≤ OPT ≤ MAX was expected") from error
    if high > _LARGEST_BATCH:
        raise OptionError(f"--batch is {text!r}; at most {_LARGEST_BATCH} images at a time were expected")
    return profile


def export(options: Options) -> Bundle:
    """Publish the ONNX bundle, unless there is one, then add a plan.

    Raises:
        MissingLibraryError: No builder is installed; the ONNX bundle was published.
        ExportError: There is no plan; an ONNX bundle that was published before is complete.
        TrainError, BundleError, ServeError: Likewise.
    """
    tolerances = load_tolerances(options.tolerances)
    if options.bundle is not None:
        check_target(options.bundle)
        bundle = Bundle.open(options.bundle)
    else:
        assert options.checkpoint is not None
        common = {field.name: getattr(options, field.name) for field in dataclasses.fields(to_onnx.Target)}
        bundle = to_onnx.export(to_onnx.Options(checkpoint=options.checkpoint, **common))
    products.choose(find_product(options.product))
    return add_plan(bundle, options, tolerances[options.precision])


def find_product(wanted: str) -> Product:
    """The builder to use.

    Raises:
        MissingLibraryError: The wanted one, or any, is not installed.
    """
    if product := products.find(wanted):
        return product
    candidates = list(PRODUCTS.values()) if wanted == "auto" else [PRODUCTS[wanted]]
    how = ", or ".join(f"`{product.install}` for {product.name}" for product in candidates)
    raise MissingLibraryError(
        f"no plan was built: {' or '.join(product.name for product in candidates)} is not installed; {how}, on the "
        "machine that has the GPU; the ONNX bundle is complete and serves without it"
    )


def add_plan(bundle: Bundle, options: Options, tolerances: Tolerances) -> Bundle:
    """Build a plan from a bundle's graph, hold it against the bundle's FP32 graph, and publish the bundle with it.

    Raises:
        ExportError, TrainError, BundleError, ServeError: The bundle is as it was.
    """
    from export import plan as builder  # imports TensorRT

    product, gpu = products.chosen(), find_gpu()
    graph = {"fp16": HALF_GRAPH, "fp32": GRAPH}[options.precision]
    with _progress(f"{product.name} {builder.version()}, {options.precision}") as report:
        built = builder.build(bundle.read(graph), options.precision, _build_options(options, product, gpu), report)
    audit = built.audit.to_json()
    print(f"  plan of {len(built.content):,} bytes in {built.seconds:.1f} s; audit: {_audit_line(audit)}")
    plan = Plan(
        product=product.name,
        version=product.version() or builder.version(),
        gpu=gpu if isinstance(gpu, Gpu) else None,
        precision=options.precision,
        graph_sha256=bundle.manifest.files[graph].sha256,
        profiles=options.profiles,
        options={
            "builder_level": options.builder_level,
            "workspace_mib": options.workspace_mib,
            "compatibility": options.compatibility,
            "version_compatible": options.version_compatible,
        },
        audit=audit,
        build_seconds=round(built.seconds, 2),
        parity=None,
    )
    name = plan.file_name
    report_document = json.loads(bundle.read(to_onnx.REPORT))
    report_document["checks"] = [check for check in report_document["checks"] if check["name"] != name]
    for part in ("unchecked", "tolerances"):
        report_document[part].pop(name, None)
    refused = to_onnx.refused_page(bundle.path)
    if isinstance(gpu, Gpu):
        test, check = _check(bundle, built.content, plan, tolerances, options.data_root)
        report_document["checks"].append(dataclasses.asdict(check))
        report_document["pictures"] |= gate.pictures(test, [check])
        # Under the plan's own name: those of its precision are what the graphs were held to.
        report_document["tolerances"][name] = dataclasses.asdict(tolerances)
        to_onnx.require_passed(report_document, refused, "no plan is published, the bundle is as it was")
        plan = dataclasses.replace(plan, parity=to_onnx.summary(check))
    else:
        print(f"  {name} was not run: {gpu}")
        report_document["unchecked"][name] = f"it could not be run where it was built; {gpu}"
    manifest = dataclasses.replace(bundle.manifest, files={}, plans=bundle.manifest.plans | {name: plan})
    kept = {file: bundle.read(file) for file in bundle.manifest.files}
    files = kept | {name: built.content} | to_onnx.documents(manifest, report_document)
    published = publish(bundle.path, manifest, files)
    refused.unlink(missing_ok=True)
    print(f"published {published.path} with {name}")
    return published


def _check(
    bundle: Bundle, content: bytes, plan: Plan, tolerances: Tolerances, data_root: Path | None
) -> tuple[TestSet, Check]:
    """Every test image at every batch size of the plan, against the FP32 graph."""
    from serve.engines.tensorrt import TensorRtEngine, open_tensorrt  # imports TensorRT

    dataset = to_onnx.load_data(bundle.manifest.checkpoint.trained["data"], data_root)
    with open_onnx_runtime(bundle.read(GRAPH), threads=torch.get_num_threads()) as reference:
        test = TestSet.of(dataset, "onnx fp32", lambda pixels: gate.in_batches(reference.run, pixels, [256]))
    with open_tensorrt(content, plan, own=True) as engine, to_onnx.announced() as announce:
        assert isinstance(engine, TensorRtEngine)
        check = gate.check_engine(plan.file_name, test, engine.run, tolerances, engine.sizes, each=True)
        return test, announce(check)


def _build_options(options: Options, product: Product, gpu: Gpu | str) -> "BuildOptions":
    from export.plan import BuildOptions, version

    folder = options.timing_cache or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "digits/timing"
    cache = None
    # TensorRT for RTX measures no times: it chooses kernels where the plan is loaded.
    if product == TENSORRT and isinstance(gpu, Gpu):
        name = f"{product.name}-{version()}-cuda{gpu.driver}-sm{gpu.compute_capability}-{gpu.name}"
        cache = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"
    return BuildOptions(
        profiles=options.profiles,
        builder_level=options.builder_level,
        workspace_bytes=options.workspace_mib * 2**20 if options.workspace_mib else None,
        compatibility=options.compatibility,
        version_compatible=options.version_compatible,
        timing_cache=cache,
    )


def _audit_line(audit: dict[str, dict[str, int]]) -> str:
    return ", ".join(f"{kind} {count} {dtype}" for kind, types in audit.items() for dtype, count in types.items())


@contextmanager
def _progress(title: str) -> Iterator[Any]:
    """A bar for the builder's steps, on a terminal."""
    print(f"build with {title}", flush=True)
    with tqdm(total=100, leave=False, disable=None, bar_format="{desc:40} {percentage:3.0f}% {elapsed}") as bar:

        def report(step: str, done: float) -> None:
            bar.set_description_str(step, refresh=False)
            bar.n = round(100 * done)
            bar.refresh()

        yield report


def main() -> int:
    """Exit status: 0 when bundle and plan were published, another when they were not."""
    return command.run(
        lambda: export(tyro.cli(Options, prog="python -m export.to_trt", description=__doc__)),
        interrupted="no plan was published",
    )


if __name__ == "__main__":
    sys.exit(main())
