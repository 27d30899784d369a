"""`python -m export.doctor`: what this machine can do, and what installs what it lacks.

It works wherever Python does: nothing is imported before it is asked about, and what cannot be imported is a finding.
"""

import dataclasses
import importlib.metadata
import json
import platform
import re
import sys
import textwrap
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tyro

from bundle.manifest import Gpu

Command = Literal[
    "train", "export-onnx", "build-tensorrt", "build-tensorrt-rtx", "run-plans", "serve-cpu", "serve-gpu", "serve-plans"
]

_WIDTH = 120

# The distributions that provide the module `onnxruntime`, and the extra that installs each.
_RUNTIMES = {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu"}
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    json: bool = False
    """Print JSON instead of text."""

    require: tuple[Command, ...] = ()
    """Exit with status 1 unless all of these can run. Default: the status is 0 whatever is found."""


@dataclass(frozen=True, kw_only=True)
class Ability:
    """Whether a command can run here.

    Attributes:
        name: For `--require`.
        command: What to type.
        missing: What it lacks; empty where it can run.
        install: What to type to change that; empty where nothing is to be installed.
    """

    name: Command
    command: str
    missing: list[str]
    install: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.missing:
            return "can run"
        lacks = f"lacks {', '.join(self.missing)}"
        return f"{lacks}: {' && '.join(self.install)}" if self.install else lacks


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was found, as far as the commands depend on it. Texts say what is there, or why it cannot be used.

    Attributes:
        providers: What ONNX Runtime computes with, by its names; text if it cannot be asked.
        gpu: The GPU, or why there is none.
        torch: What PyTorch says of itself.
        torch_works: Whether it could be imported.
    """

    providers: list[str] | str
    gpu: Gpu | str
    torch: str
    torch_works: bool


def examine() -> Machine:
    """Asks each library; none of them has to be there."""
    torch, works = _probe(_torch)
    providers, asked = _probe(_providers)
    gpu, found = _probe(_gpu)
    return Machine(
        providers=providers if asked else str(providers),
        gpu=gpu if found else str(gpu),
        torch=str(torch),
        torch_works=works,
    )


def facts(machine: Machine) -> dict[str, str]:
    """Versions and devices, by what they are called."""
    from serve.engines.products import PRODUCTS

    providers = machine.providers if isinstance(machine.providers, str) else ", ".join(machine.providers)
    gpu = machine.gpu
    mend = " && ".join(_install(["cpu" if isinstance(gpu, str) else "gpu"]))
    both = f" (both builds are installed: {mend})" if set(_RUNTIMES) <= _installed_runtimes() else ""
    described = gpu if isinstance(gpu, str) else f"{gpu.name}, compute capability {gpu.compute_capability}"
    return {
        "Python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        "PyTorch": machine.torch,
        "ONNX": _version("onnx") or "not installed",
        **{name: f"{_version(name)}{both}" for name in sorted(_installed_runtimes())},
        "ONNX Runtime's providers": providers,
        **{product.name: product.version() or "not installed" for product in PRODUCTS.values()},
        "cuda-core": _version("cuda-core") or "not installed",
        "GPU": described,
        "CUDA of the driver": "unknown" if isinstance(gpu, str) else gpu.driver,
    }


def abilities(machine: Machine) -> list[Ability]:
    """What each command of the pipeline lacks here."""
    from serve.engines.products import TENSORRT, TENSORRT_RTX

    gpu = ["an NVIDIA GPU"] if isinstance(machine.gpu, str) else []
    # Not installed at all, it is among what the extra lacks.
    torch = [] if machine.torch_works or not _version("torch") else [f"a PyTorch that works ({machine.torch})"]
    runtime = [] if isinstance(machine.providers, list) else ["ONNX Runtime"]
    cuda = [] if _CUDA in machine.providers else ["ONNX Runtime with CUDA"]
    plans = ["TensorRT"] if not (TENSORRT.version() or TENSORRT_RTX.version()) else []
    kernel = [] if _version("cuda-core") else ["cuda-core"]

    def ability(name: Command, command: str, extras: Mapping[str, Sequence[str]], *others: str) -> Ability:
        """`extras`: by the name of each extra, what is missing of it."""
        missing = [part for parts in extras.values() for part in parts]
        wanted = [extra for extra, parts in extras.items() if parts]
        return Ability(
            name=name,
            command=f"python -m {command}",
            missing=[*dict.fromkeys(missing), *others],
            install=list(_install(wanted)),
        )

    export = {"export": _missing("export"), "cpu": runtime}
    serving = _missing("serving")
    rtx = [] if TENSORRT_RTX.version() else _missing("rtx")
    tensorrt = [] if TENSORRT.version() else ["tensorrt"]
    return [
        ability("train", "train", {"train": _missing("train")}, *torch),
        ability("export-onnx", "export.to_onnx", export, *torch),
        ability(
            "build-tensorrt",
            "export.to_trt --product tensorrt",
            export | {"gpu": [*tensorrt, *kernel]},
            *torch,
            *gpu,
        ),
        ability("build-tensorrt-rtx", "export.to_trt --product tensorrt-rtx", export | {"rtx": rtx}, *torch),
        ability("run-plans", "export.verify --parity", export | {"gpu": [*plans, *kernel]}, *torch, *gpu),
        ability("serve-cpu", "serve --engine onnxruntime", {"cpu": [*serving, *runtime]}),
        ability("serve-gpu", "serve --engine onnxruntime-cuda", {"gpu": [*serving, *cuda, *kernel]}, *gpu),
        ability("serve-plans", "serve --engine tensorrt", {"gpu": [*serving, *plans, *kernel]}, *gpu),
    ]


def report(found: Mapping[str, str], able: Sequence[Ability]) -> str:
    """The findings as text, in two tables."""
    return "\n".join(
        (
            *_table([(name, text) for name, text in found.items()]),
            "",
            *_table([(each.name, each.command, each.verdict) for each in able]),
        )
    )


def _probe(ask: Callable[[], Any]) -> tuple[Any, bool]:
    """What a library answers, and True; or why it cannot be asked, and False."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ask(), True
    except Exception as error:  # a library that is half installed raises what it likes
        return next(iter(str(error).splitlines()), type(error).__name__), False


def _torch() -> str:
    if _version("torch") is None:
        raise LookupError("not installed")
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"{torch.__version__}, built for {build}, sees {gpus or 'no'} GPU{'s' if gpus > 1 else ''}"


def _providers() -> list[str]:
    from serve.engines.onnx_runtime import providers

    if not _installed_runtimes():
        raise LookupError("not installed")
    return providers()


def _gpu() -> Gpu:
    from serve.engines.gpu import find_gpu

    gpu = find_gpu()
    if isinstance(gpu, str):
        raise LookupError(gpu)
    return gpu


def _installed_runtimes() -> set[str]:
    return {name for name in _RUNTIMES if _version(name)}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _missing(extra: str) -> list[str]:
    """What an extra asks for and this environment lacks."""
    if extra not in _extras():
        return [f"what '.[{extra}]' asks for"]
    missing = []
    for name, low, high in _requirements(extra):
        found = _version(name)
        if found is None:
            missing.append(name)
        elif not _numbers(low) <= _numbers(found) < _numbers(high):
            missing.append(f"{name} from {low} and below {high} (found {found})")
    return missing


def _numbers(version: str) -> list[int]:
    """A version as far as it is numbers, to compare: 2.15.0+cu132 is 2, 15, 0."""
    return [int(part) for part in re.match(r"[0-9.]*", version)[0].split(".") if part]  # type: ignore[index]


def _requirements(extra: str) -> Iterator[tuple[str, str, str]]:
    """Name, lowest version, and the first that is too high, of all that an extra asks for."""
    for text in _extras().get(extra, []):
        if nested := re.fullmatch(r"digits\[(\w+)\]", text):
            yield from _requirements(nested[1])
        elif found := re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+),<([\w.]+)", text):
            yield found[1], found[2], found[3]
        # What has a condition behind it, as uvloop has, can be done without.


@cache
def _extras() -> dict[str, list[str]]:
    """The project's extras: from the checkout, where there is one, else from the installed package."""
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if path.is_file():
        extras: dict[str, list[str]] = tomllib.loads(path.read_text("utf-8"))["project"]["optional-dependencies"]
        return extras
    extras = {}
    try:
        texts = importlib.metadata.requires("digits") or []
    except importlib.metadata.PackageNotFoundError:
        texts = []
    for text in texts:
        if found := re.fullmatch(r"(.+?) ?; extra == '(\w+)'", text):
            # The build writes the bounds in the order of the alphabet.
            extras.setdefault(found[2], []).append(re.sub(r"(<[^,]+),(>=[^,]+)$", r"\2,\1", found[1]))
    return extras


def _install(extras: Sequence[str]) -> Iterator[str]:
    """The commands that install extras, with one build of ONNX Runtime and never both."""
    if not extras:
        return
    # The extra for the GPU brings an ONNX Runtime of its own.
    chosen = [extra for extra in extras if not (extra == "cpu" and "gpu" in extras)]
    wanted = {build for build, extra in _RUNTIMES.items() if extra in chosen}
    installed = _installed_runtimes()
    if wanted and installed - wanted:
        # All of them: each has overwritten files of the other, and takes them along when it goes.
        yield f"pip uninstall {' '.join(sorted(installed))}"
    yield f"pip install '.[{','.join(chosen)}]'"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Aligned columns; the last is wrapped under itself."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    margin = sum(widths) + 2 * len(widths)
    for *cells, last in rows:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        lines = textwrap.wrap(last, max(40, _WIDTH - margin), break_long_words=False, break_on_hyphens=False)
        yield from (f"{start if not index else ' ' * margin}{line}" for index, line in enumerate(lines))


def main() -> int:
    """Exit status: 0; 1 where a command of `--require` cannot run."""
    options = tyro.cli(Options, prog="python -m export.doctor", description=__doc__)
    machine = examine()
    found, able = facts(machine), abilities(machine)
    if options.json:
        document = {
            "found": found,
            "providers": machine.providers if isinstance(machine.providers, list) else [],
            "gpu": None if isinstance(machine.gpu, str) else dataclasses.asdict(machine.gpu),
            "commands": [dataclasses.asdict(each) | {"can_run": not each.missing} for each in able],
        }
        print(json.dumps(document, indent=2))
    else:
        print(report(found, able))
    lacking = [f"{each.name} {each.verdict}" for each in able if each.missing and each.name in options.require]
    if lacking:
        print(f"error: {'; '.join(lacking)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
