"""Who may import whom: the table of the architecture, read from the source, and a fresh interpreter that proves it."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Folder, and what of ours it may import besides itself. Stages meet in files and on the wire, not in imports.
OURS = {
    "train": (),
    "export": ("train.models", "train.checkpoint", "train.data", "train.inference", "train.storage", "train.errors",
               "bundle", "serve.engines", "serve.errors"),  # parity runs on the very code that serves
    "bundle": (),
    "protos": (),
    "serve": ("protos", "bundle", "imaging"),
    "clients": ("protos", "imaging"),
    "imaging": (),
}  # fmt: skip

# Single modules that may import more, when they are run: see what they say at their top.
EXCEPTIONS = {
    "clients.benchmark.engines": ("bundle", "serve.engines", "serve.errors", "train.checkpoint", "train.errors"),
}

# What a checkout has besides, and an installation has not.
NOT_INSTALLED = ("benchmarks", "tests", "demo")

# Heavy library, and the folders with a door to it.
DOORS = {
    "torch": ("train", "export", "clients.benchmark.engines"),
    "torchvision": ("train",),
    "sklearn": ("train",),
    "scipy": ("train",),
    "torchmetrics": ("train",),
    "matplotlib": ("train", "clients.benchmark.plots"),
    "PIL": ("imaging", "export"),
    "cv2": ("imaging",),
    "jinja2": ("train", "export"),
    "onnx": ("export",),
    "onnxscript": ("export",),
    "tensorrt": ("export", "serve.engines"),
    "tensorrt_rtx": ("export", "serve.engines"),
    "onnxruntime": ("serve.engines", "export"),
    "cuda": ("serve.engines",),
    "prometheus_client": ("serve.metrics", "serve.exposition"),
    "opentelemetry": ("serve.rpc.traces",),
    "starlette": ("clients.web",),
    "uvicorn": ("clients.web",),
    "hdrh": ("clients.benchmark.percentiles",),
    "psutil": ("clients.benchmark.resources",),
    "mlperf_loadgen": ("clients.benchmark.loadgen",),
}

# Libraries that only one module of each folder with a door may import.
ONE_MODULE = ("tensorrt", "tensorrt_rtx", "onnxruntime")

# Folders that do with the standard library.
STANDARD_LIBRARY_ONLY = ("bundle",)

# What must not be loaded where a client or a server starts.
TOO_HEAVY = (
    *("torch", "torchvision", "sklearn", "scipy", "torchmetrics", "matplotlib", "jinja2"),
    *("PIL", "cv2"),
    *("onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "train", "export", "benchmarks"),
)
LIGHT = ("serve", "clients", "bundle")

Sources = dict[str, str]
"""Text of each module by its dotted name."""


def is_part(name: str, of: str) -> bool:
    """Whether a dotted name is another one or lies below it."""
    return f"{name}.".startswith(f"{of}.")


def imports(module: str, source: str) -> Iterator[str]:
    """Every dotted name that a module imports, wherever in it; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(source, module)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                package = module.split(".")[:-level] if level else []
                start = ".".join([*package, *([origin] if origin else [])])
                yield from (f"{start}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str() as name), *_],
            ):
                yield name


def foreign_imports(sources: Sources) -> list[str]:
    """Imports of ours that the table does not have."""
    return [
        f"{module} imports {name}"
        for module, source in sources.items()
        for name in imports(module, source)
        if name.split(".")[0] in (*OURS, *NOT_INSTALLED)
        and not any(
            is_part(name, of=allowed)
            for allowed in (module.split(".")[0], *OURS[module.split(".")[0]], *EXCEPTIONS.get(module, ()))
        )
    ]


def side_doors(sources: Sources) -> list[str]:
    """Imports of heavy libraries from folders, or from more modules of one, than may."""
    found = []
    users: dict[tuple[str, str], set[str]] = {}
    for module, source in sources.items():
        for library in {name.split(".")[0] for name in imports(module, source)} & DOORS.keys():
            door = next((door for door in DOORS[library] if is_part(module, of=door)), None)
            if door is None:
                found.append(f"{module} imports {library}")
            elif library in ONE_MODULE:
                users.setdefault((library, door), set()).add(module)
    found += [
        f"{', '.join(sorted(modules))} all import {library}"
        for (library, _), modules in users.items()
        if len(modules) > 1
    ]
    return found


def libraries_where_none_may_be(sources: Sources) -> list[str]:
    """Imports from outside the standard library in folders that do without."""
    return [
        f"{module} imports {name}"
        for module, source in sources.items()
        for name in imports(module, source)
        if (folder := module.split(".")[0]) in STANDARD_LIBRARY_ONLY
        and name.split(".")[0] not in sys.stdlib_module_names
        and not is_part(name, of=folder)
    ]


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Every module of the folders in the table; `a/__init__.py` is named a.__init__, so that `.` in it means a."""
    paths = [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8") for path in paths}


def test_the_table_has_every_folder_that_is_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(packages["packages"]) == sorted(OURS)


def test_every_folder_of_the_table_has_modules(sources):
    assert {module.split(".")[0] for module in sources} == OURS.keys()


def test_stages_import_of_ours_only_what_the_table_allows(sources):
    assert foreign_imports(sources) == []


def test_each_heavy_library_has_its_doors_and_no_other(sources):
    assert side_doors(sources) == []


def test_the_contract_between_export_and_serve_needs_the_standard_library_only(sources):
    assert libraries_where_none_may_be(sources) == []


# Each check must be able to fail.


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("serve.app", "import export.graph", "export.graph"),
        ("serve.app", "import numpy, train", "train"),
        ("serve.app", "def late():\n    from train.models import build", "train.models.build"),
        ("serve.app", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import clients", "clients"),
        ("serve.app", "import importlib\nimportlib.import_module('train.data')", "train.data"),
        ("clients.wire", "from bundle import Manifest", "bundle.Manifest"),
        ("clients.wire", "from serve.errors import ServeError", "serve.errors.ServeError"),
        ("clients.benchmark.drive", "from serve.engines import Engine", "serve.engines.Engine"),
        ("clients.benchmark.engines", "from serve.batcher import Batcher", "serve.batcher.Batcher"),
        ("bundle.store", "import protos.digits.v1.digits_pb2", "protos.digits.v1.digits_pb2"),
        ("export.graph", "from train import loop", "train.loop"),
        ("export.graph", "import train", "train"),
        ("export.graph", "import train.models_of_mine", "train.models_of_mine"),
        ("export.graph", "from serve.batcher import Batcher", "serve.batcher.Batcher"),
        ("train.loop", "from bundle import publish", "bundle.publish"),
        ("train.loop", "from benchmarks import serving", "benchmarks.serving"),
        ("serve.app", "from benchmarks.conditions import cores", "benchmarks.conditions.cores"),
        ("clients.wire", "import tests.fakes", "tests.fakes"),
    ],
)
def test_an_import_that_the_table_does_not_have_is_found(module, source, found):
    assert foreign_imports({module: source}) == [f"{module} imports {found}"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "serve.app",
            "from serve.batcher import Batcher\nfrom bundle import Bundle\nimport protos.digits.v1.digits_pb2",
        ),
        ("serve.engines.__init__", "from .engine import Engine"),
        ("serve.engines.onnx_runtime", "from ..errors import StartupError"),
        (
            "export.to_onnx",
            "import train.checkpoint\nfrom train import data\nfrom serve.engines.onnx_runtime import GRAPH",
        ),
        ("train.sweep", "from train.conditions import conditions, cores"),
        ("clients.wire", "from protos.digits.v1 import digits_pb2\nimport servelet, training"),
    ],
)
def test_an_import_that_the_table_has_is_not_found(module, source):
    assert foreign_imports({module: source}) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("serve.app", "import torch.nn as nn"),
        ("clients.wire", "from torch import Tensor"),
        ("serve.engines.onnx_runtime", "import onnx"),
        ("train.loop", "import onnx"),
        ("train.loop", "import onnxruntime"),
        ("serve.app", "def late():\n    import onnxruntime"),
        ("serve.app", "__import__('tensorrt')"),
    ],
)
def test_a_library_used_where_it_has_no_door_is_found(module, source):
    assert len(side_doors({module: source})) == 1


def test_two_modules_at_a_door_for_one_are_found():
    one = {"serve.engines.a": "import tensorrt", "export.plan": "import tensorrt"}
    assert side_doors(one) == []
    assert side_doors({**one, "serve.engines.b": "from tensorrt import Runtime"}) == [
        "serve.engines.a, serve.engines.b all import tensorrt"
    ]


def test_a_library_in_a_folder_that_does_without_is_found():
    assert libraries_where_none_may_be({"bundle.store": "import json\nimport numpy as np"}) == [
        "bundle.store imports numpy"
    ]


# What really is loaded

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for folder in sys.argv[1].split():
    package = importlib.import_module(folder)
    for module in pkgutil.walk_packages(package.__path__, folder + "."):
        if module.name == "serve.engines.tensorrt":  # imported only where a plan is served
            continue
        importlib.import_module(module.name)
        print(module.name, file=sys.stderr)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(*folders: str) -> tuple[set[str], set[str]]:
    """Top-level names in `sys.modules` once every module of the folders was imported, and those modules."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, " ".join(folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return set(done.stdout.split()), set(done.stderr.split())


@pytest.mark.parametrize("folder", LIGHT)
def test_a_fresh_interpreter_that_imports_a_light_folder_has_nothing_heavy(folder, sources):
    loaded, modules = loaded_by(folder)
    assert loaded & set(TOO_HEAVY) == set()
    named = {module.removesuffix(".__init__") for module in sources if is_part(module, of=folder)}
    assert modules | {folder} == named - {"serve.engines.tensorrt"}


def test_a_client_does_not_load_the_server():
    loaded, _ = loaded_by("clients")
    assert loaded & {"serve", "bundle"} == set()


def test_training_starts_without_what_only_an_evaluation_needs():
    code = "import sys, train.loop, train.inference; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert set(done.stdout.split()) & {"matplotlib", "sklearn", "torchmetrics", "jinja2"} == set()


def test_the_look_into_a_fresh_interpreter_can_find_something_heavy():
    loaded, _ = loaded_by("export")
    assert {"torch", "onnx", "train", "export"} <= loaded
