"""The code that calls TensorRT, type-checked against NVIDIA's own bindings, which come without types.

Stubs can be made from the bindings of each version but not be published: `DIGITS_TENSORRT_STUBS` names a folder that
holds them, as `stubs-10/tensorrt/__init__.pyi` and `stubs-11/tensorrt/__init__.pyi`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUBS = os.environ.get("DIGITS_TENSORRT_STUBS")
CALLERS = ("export/plan.py", "serve/engines/tensorrt.py")

pytestmark = [
    pytest.mark.skipif(STUBS is None, reason="DIGITS_TENSORRT_STUBS names no stubs of TensorRT's bindings"),
    pytest.mark.timeout(300),
]

# Each breaks the code as a slip or an older version of the library would have it.
WRONG = {
    "a misspelled call": ("export/plan.py", "create_network(", "create_netwrok("),
    "a call whose None is not checked": (
        "serve/engines/tensorrt.py",
        "    if engine is None:\n",
        "    if not plan.product:\n",
    ),
    "a name that version 11 has dropped": ("export/plan.py", "trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16"),
    "a number for a layer's name": ("export/plan.py", "network.get_layer(index)", 'network.get_layer("first")'),
}


@pytest.fixture(scope="module")
def mypy(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Strict mypy with the stubs of a major version of TensorRT."""
    caches = tmp_path_factory.mktemp("mypy")

    def run(version: int, *files: Path | str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(caches / str(version)), *map(str, files)],
            cwd=ROOT,
            env=os.environ | {"MYPYPATH": f"{STUBS}/stubs-{version}"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("version", [10, 11])
def test_every_call_exists_in_this_version_and_every_failure_is_looked_at(mypy, version):
    done = mypy(version, *CALLERS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("file", "right", "wrong"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_caught(mypy, tmp_path, file, right, wrong):
    source = (ROOT / file).read_text("utf-8")
    assert right in source
    (tmp_path / "spoilt.py").write_text(source.replace(right, wrong), "utf-8")
    done = mypy(11, tmp_path / "spoilt.py")
    assert done.returncode == 1
    assert "spoilt.py" in done.stdout
