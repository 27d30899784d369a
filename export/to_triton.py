"""`python -m export.to_triton BUNDLE REPOSITORY`: write a model repository for NVIDIA's Triton Inference Server.

    REPOSITORY/NAME/config.pbtxt            what goes in and out, and how Triton batches
    REPOSITORY/NAME/labels.txt              the ten digits
    REPOSITORY/NAME/VERSION/model.onnx      the bundle's graph, or model.plan, its TensorRT plan

The bundle is checked as `python -m export.verify` does. Nothing that is there is replaced: another version of the same
model is added beside it, and a version that is there with other content is refused.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bundle.manifest import INPUT, OUTPUT, Manifest, Plan, Profile, Tensor
from export import command
from export.errors import ExportError, OptionError
from export.verify import open_verified
from serve.engines.onnx_runtime import GRAPH
from serve.engines.products import TENSORRT

CONFIG, LABELS = "config.pbtxt", "labels.txt"

# An ONNX graph takes any number of images; a GPU gains little from more than these at a time.
_GRAPH_BATCH = 256

# One copies while the other computes.
_PLAN_INSTANCES = 2

_DTYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder made by `python -m export.to_onnx` or `python -m export.to_trt`."""

    repository: Annotated[Path, tyro.conf.Positional]
    """Triton's model repository: the folder that `tritonserver --model-repository` names. It is made if need be."""

    plan: bool = False
    """Take the bundle's TensorRT plan instead of its FP32 graph."""

    file: str | None = None
    """The graph or plan to take, by its name in the bundle: where it has several plans, or for a graph in another
    precision."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What Triton shall serve: a graph, or a plan with its description."""

    file: str
    plan: Plan | None = None

    @property
    def target(self) -> str:
        """The name under which Triton looks for it."""
        return "model.plan" if self.plan else "model.onnx"


def export(options: Options) -> Path:
    """Write the model into the repository; says on standard output what to do with it.

    Returns:
        The folder of the version.

    Raises:
        ExportError, BundleError: The repository is as it was.
    """
    bundle = open_verified(options.bundle)
    source = choose(bundle.manifest, options)
    shared = {
        CONFIG: configure(bundle.manifest, source.plan).encode(),
        LABELS: "".join(f"{label}\n" for label in bundle.manifest.labels).encode(),
    }
    folder = options.repository / bundle.manifest.name
    version = folder / bundle.manifest.version
    if _write(folder, version.name, shared, {source.target: bundle.read(source.file)}):
        print(f"wrote {version / source.target} from {source.file}")
    else:
        print(f"{version / source.target} is there already, with the same content")
    print(f"serve it with: {_serve_command(options.repository, source.plan)}")
    return version


def choose(manifest: Manifest, options: Options) -> Source:
    """The graph or plan that was asked for.

    Raises:
        OptionError: The bundle has none, or several, of what was asked for; the message names what it has.
        ExportError: Triton cannot serve it.
    """
    described = manifest.graphs.keys() | manifest.plans.keys()
    if options.file is not None and options.file not in described:
        raise OptionError(f"--file is {options.file!r}; one of {', '.join(sorted(described))} was expected")
    if options.file in manifest.graphs:
        if options.plan:
            raise OptionError(f"--file {options.file} is a graph, and --plan asks for a plan; leave one of them out")
        return Source(file=options.file)
    if options.file is None and not options.plan:
        return Source(file=GRAPH)
    names = (
        [options.file] if options.file else [n for n, plan in manifest.plans.items() if plan.product == TENSORRT.name]
    )
    if len(names) != 1:
        found = "; ".join(f"{name} ({_describe(plan)})" for name, plan in sorted(manifest.plans.items())) or "none"
        advice = "name one with --file" if names else "build one with python -m export.to_trt --bundle DIR"
        raise OptionError(
            f"--plan needs one plan of TensorRT, the bundle has {len(names)}; {advice}. Its plans: {found}"
        )
    plan = manifest.plans[names[0]]
    _require_servable(names[0], plan)
    return Source(file=names[0], plan=plan)


def configure(manifest: Manifest, plan: Plan | None) -> str:
    """Writes a `config.pbtxt`.

    Args:
        manifest: What the bundle says of the model.
        plan: What it says of the plan; None for an ONNX graph.
    """
    profiles = plan.profiles if plan else []
    largest = max((profile.max for profile in profiles), default=_GRAPH_BATCH)
    return "\n".join(
        (
            f'name: "{manifest.name}"',
            f'platform: "{"tensorrt_plan" if plan else "onnxruntime_onnx"}"',
            f"max_batch_size: {largest}",
            *_tensor("input", INPUT),
            *_tensor("output", OUTPUT, f'  label_filename: "{LABELS}"'),
            *_batching(profiles),
            *_instances(profiles),
            "",
        )
    )


def _tensor(kind: str, tensor: Tensor, *more: str) -> list[str]:
    dimensions = ", ".join(map(str, tensor.shape[1:]))  # Triton puts the batch in front
    entry = [f'  name: "{tensor.name}"', f"  data_type: {_DTYPES[tensor.dtype]}", f"  dims: [{dimensions}]", *more]
    return [f"{kind} {{", *entry, "}"]


def _batching(profiles: Sequence[Profile]) -> list[str]:
    """Whatever waits when an instance is free, at once, as this project's own server does.

    Triton's guide advises against preferred sizes but for plans of several profiles, each tuned for a size of its own.
    """
    if len(profiles) < 2:
        return ["dynamic_batching { }"]
    sizes = ", ".join(map(str, sorted({profile.opt for profile in profiles})))
    return ["dynamic_batching {", f"  preferred_batch_size: [{sizes}]", "}"]


def _instances(profiles: Sequence[Profile]) -> list[str]:
    if not profiles:
        # One for each GPU, or one for all cores: ONNX Runtime shares one call out among them.
        return ["instance_group {", "  kind: KIND_AUTO", "  count: 1", "}"]
    # Without their numbers Triton uses the first profile alone.
    numbers = ", ".join(f'"{index}"' for index in range(len(profiles)))
    chosen = [f"  profile: [{numbers}]"] if len(profiles) > 1 else []
    return ["instance_group {", "  kind: KIND_GPU", f"  count: {_PLAN_INSTANCES}", *chosen, "}"]


def _require_servable(name: str, plan: Plan) -> None:
    """Refuse a plan that Triton could not load, or could not answer every batch with.

    Raises:
        ExportError: It is one.
    """
    if plan.product != TENSORRT.name:
        raise ExportError(
            f"{name} is a plan of {plan.product}; Triton loads plans of {TENSORRT.name} only; build one with "
            f"python -m export.to_trt --bundle DIR --product {TENSORRT.name}, or leave --plan out"
        )
    covered = 0
    for profile in sorted(plan.profiles, key=lambda profile: profile.min):
        if profile.min > covered + 1:
            break
        covered = max(covered, profile.max)
    largest = max((profile.max for profile in plan.profiles), default=0)
    if covered < largest or not largest:
        raise ExportError(
            f"{name} takes {' and '.join(map(str, plan.profiles)) or 'no'} images at a time (MIN:OPT:MAX), but Triton "
            "makes batches of any size from 1; build a plan that takes them all, such as --batch 1:32:256"
        )


def _describe(plan: Plan) -> str:
    gpu = plan.gpu.name if plan.gpu else "any GPU"
    return f"{plan.product} {plan.version}, {plan.precision}, for {gpu}"


def _serve_command(repository: Path, plan: Plan | None) -> str:
    start = f"tritonserver --model-repository={repository.resolve()}"
    if plan is None:
        return start
    version = plan.version
    if plan.options.get("version_compatible"):
        start += " --backend-config=tensorrt,version-compatible=true"
        version += " or later"
    return f"{start}, of a release with TensorRT {version}, on {plan.gpu.name if plan.gpu else 'an NVIDIA GPU'}"


def _write(folder: Path, version: str, shared: Mapping[str, bytes], model: Mapping[str, bytes]) -> bool:
    """Put a version into a model's folder, in one step.

    Args:
        folder: Of the model.
        version: Name of the version's folder.
        shared: What all versions have in common, by name.
        model: The version's own files.

    Returns:
        Whether anything was written; False where all of it is there.

    Raises:
        ExportError: Other content is there, or the folder cannot be written. It is as it was.
    """
    try:
        if (folder / version).exists():
            _require_same(folder, shared)
            _require_same(folder / version, model)
            return False
        if folder.exists():
            _require_same(folder, shared)
            _place(model, folder / version)
        else:
            _place({**shared, **{f"{version}/{name}": content for name, content in model.items()}}, folder)
    except OSError as error:
        raise ExportError(
            f"{folder}: {error.strerror or error}; nothing was written; free some space or choose another REPOSITORY"
        ) from error
    return True


def _require_same(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            found = "other content" if path.exists() else "nothing"
            raise ExportError(
                f"{path}: found {found}, what this bundle gives was expected, and nothing is replaced; give another "
                "REPOSITORY and take over what you want, or export the bundle under another name or version"
            )


def _place(files: Mapping[str, bytes], target: Path) -> None:
    """Write files, by their path below `target`, beside it and then rename: Triton sees all of them or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Triton takes no folder for a version whose name is no number.
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)
        for name, content in files.items():
            path = staging / name
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def main() -> int:
    """Exit status: 0 when the model is in the repository, another when it is not."""
    return command.run(
        lambda: export(tyro.cli(Options, prog="python -m export.to_triton", description=__doc__)),
        interrupted="nothing was written",
    )


if __name__ == "__main__":
    sys.exit(main())
