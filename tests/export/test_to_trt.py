"""The command that adds a plan: with the real builder of TensorRT for RTX, and without any."""

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bundle import Bundle
from bundle.manifest import Gpu, Profile
from export import to_trt
from export.errors import MissingLibraryError, OptionError
from export.to_trt import find_product, parse_profile
from export.tolerances import DEFAULTS
from serve.engines import products
from serve.engines.gpu import find_gpu
from serve.engines.onnx_runtime import open_onnx_runtime
from serve.engines.products import TENSORRT, TENSORRT_RTX

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")
without_gpu = pytest.mark.skipif(not isinstance(find_gpu(), str), reason="there is a GPU")


@pytest.fixture
def installed(monkeypatch) -> Callable[..., None]:
    """Called with names of TensorRT's modules, makes them the only ones of these that can be found."""
    find = importlib.util.find_spec

    def only(*names: str) -> None:
        def found(name: str) -> ModuleSpec | None:
            if name in ("tensorrt", "tensorrt_rtx"):
                return ModuleSpec(name, None) if name in names else None
            return find(name)

        monkeypatch.setattr(importlib.util, "find_spec", found)

    return only


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`python -m export.to_trt ARGUMENTS`: exit status, what it printed, and on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["to_trt", *map(str, arguments)])
        status = to_trt.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def own(bundle, tmp_path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


# With a builder


@needs_rtx
@without_gpu
def test_a_checkpoint_becomes_a_bundle_with_a_plan_that_says_it_was_not_run(run, checkpoint, bundle, tmp_path):
    status, out, _ = run(checkpoint, "--output", tmp_path / "bundle", "--product", "tensorrt-rtx")
    assert status == 0
    published = Bundle.open(tmp_path / "bundle")
    [(name, plan)] = published.manifest.plans.items()
    assert name == f"tensorrt-rtx-{plan.version}-fp16-any.plan" == plan.file_name
    assert (plan.product, plan.precision, plan.gpu, plan.parity) == ("tensorrt-rtx", "fp16", None, None)
    assert plan.profiles == [Profile(min=1, opt=32, max=256)]
    assert plan.audit == {"convolutions": {"HALF": 6}, "matrix products": {"HALF": 1}}
    assert plan.graph_sha256 == published.manifest.files["model.fp16.onnx"].sha256
    report = json.loads(published.read("parity.json"))
    assert name in report["unchecked"]
    assert f"{name} was not run: no NVIDIA GPU can be used" in out
    assert f"<strong>{name}</strong> was not checked" in published.read("parity.html").decode()
    for graph in ("model.onnx", "model.fp16.onnx"):
        assert published.read(graph) == (bundle / graph).read_bytes()


@needs_rtx
@without_gpu
def test_a_bundle_takes_several_plans_and_one_of_each_kind(run, own):
    before = Bundle.open(own).manifest
    for options in (("--precision", "fp32"), ("--batch", "1:1:1", "2:64:256"), ("--batch", "1:8:16")):
        assert run("--bundle", own, *options)[0] == 0
    manifest = Bundle.open(own).manifest
    assert {plan.precision: plan.profiles for plan in manifest.plans.values()} == {
        "fp32": [Profile(min=1, opt=32, max=256)],
        "fp16": [Profile(min=1, opt=8, max=16)],
    }
    assert before.graphs == manifest.graphs
    assert before.files["model.onnx"] == manifest.files["model.onnx"]
    assert len(json.loads((own / "parity.json").read_text())["unchecked"]) == 2


@pytest.fixture
def on_a_gpu(monkeypatch) -> Callable[..., None]:
    """Called with what stands in for the plan's answers, gives this machine a GPU that has them."""
    gpu = Gpu(name="NVIDIA H200", compute_capability="9.0", driver="13.0")
    monkeypatch.setattr(to_trt, "find_gpu", lambda: gpu)

    def answer(with_: Callable[[np.ndarray], np.ndarray]) -> None:
        products.choose(TENSORRT_RTX)
        from serve.engines import tensorrt

        shots = [SimpleNamespace(size=size, run=with_) for size in (1, 8)]
        engine = tensorrt.TensorRtEngine(shots, SimpleNamespace(product="tensorrt-rtx", precision="fp32"))
        monkeypatch.setattr(tensorrt, "open_tensorrt", lambda content, plan, own: nullcontext(engine))

    return answer


@needs_rtx
def test_a_plan_is_published_with_its_own_tolerances_or_refused_beside_the_bundle(run, own, on_a_gpu, tmp_path):
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    (tmp_path / "loose.toml").write_text("[fp32]\nmax_difference = 0.9\n")
    arguments = ("--bundle", own, "--precision", "fp32", "--tolerances", tmp_path / "loose.toml")
    page = tmp_path / "own-refused.html"

    on_a_gpu(lambda pixels: np.full((len(pixels), 10), 0.1, np.float32))
    status, _, err = run(*arguments)
    assert status == 1
    assert "error: no plan is published, the bundle is as it was: tensorrt-rtx-" in err
    assert "Refused. No plan is published, the bundle is as it was." in re.sub("<[^>]*>", "", page.read_text("utf-8"))
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before

    with open_onnx_runtime(before["model.onnx"]) as engine:
        on_a_gpu(engine.run)
        assert run(*arguments)[0] == 0
    [name] = Bundle.open(own).manifest.plans
    tolerances = json.loads((own / "parity.json").read_text())["tolerances"]
    assert tolerances["fp32"] == dataclasses.asdict(DEFAULTS["fp32"])
    assert tolerances[name]["max_difference"] == 0.9
    assert not page.exists()


@needs_rtx
def test_a_builder_that_refuses_leaves_the_bundle_as_it_was(run, own):
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    status, _, err = run("--bundle", own, "--version-compatible")
    assert status == 1
    assert err.startswith("error: the builder refused the network: ")
    assert "libnvinfer_lean" in err
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before


def test_a_bundle_that_was_changed_by_hand_is_refused(run, own):
    (own / "model.fp16.onnx").write_bytes(b"better")
    status, out, err = run("--bundle", own)
    assert (status, out) == (1, "")
    assert "the file was changed after it was published" in err


def test_a_folder_that_is_no_bundle_is_refused(run, tmp_path):
    status, _, err = run("--bundle", tmp_path / "nowhere")
    assert status == 1
    assert "found nothing, a bundle directory was expected" in err


# Without one


def test_without_tensorrt_the_onnx_bundle_is_left_complete_and_the_message_says_what_to_install(
    run, checkpoint, bundle, tmp_path, installed
):
    installed()
    status, _, err = run(checkpoint, "--output", tmp_path / "bundle")
    assert status == 1
    error = err.splitlines()[-1]
    assert error.startswith("error: no plan was built: tensorrt or tensorrt-rtx is not installed; `pip install")
    assert ".[gpu]" in error
    assert ".[rtx]" in error
    Bundle.open(tmp_path / "bundle")
    for path in bundle.iterdir():
        assert (tmp_path / "bundle" / path.name).read_bytes() == path.read_bytes()


def test_tensorrt_comes_first_and_the_other_product_when_it_is_asked_for(installed):
    installed("tensorrt", "tensorrt_rtx")
    assert find_product("auto") == TENSORRT
    assert find_product("tensorrt-rtx") == TENSORRT_RTX
    installed("tensorrt_rtx")
    assert find_product("auto") == TENSORRT_RTX
    with pytest.raises(MissingLibraryError, match=r"tensorrt is not installed; `pip install '\.\[gpu\]'`"):
        find_product("tensorrt")


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "8:4:16"), "--batch is '8:4:16'; 1 ≤ MIN ≤ OPT ≤ MAX was expected"),
        (("--batch", "1:2:65537"), "--batch is '1:2:65537'; at most 65536 images at a time were expected"),
        (("--batch",), "--batch names no sizes; MIN:OPT:MAX was expected, such as 1:32:256"),
        (("--builder-level", "6"), "--builder-level is 6; 0 to 5 was expected"),
        (("--workspace-mib", "0"), "--workspace-mib is 0; at least 1 was expected"),
        (("--bundle", "somewhere"), "give either a checkpoint, such as runs/compact/best.pt, or --bundle DIR"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(run, checkpoint, tmp_path, arguments, message):
    status, out, err = run(checkpoint, "--output", tmp_path / "bundle", *arguments)
    assert (status, out) == (1, "")
    assert err == f"error: {message}\n"
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("option", [("--name", "other"), ("--int8",)])
def test_a_bundle_keeps_its_name_and_graphs(run, own, option):
    status, _, err = run("--bundle", own, *option)
    assert (status, err) == (
        1,
        "error: --output, --name, --version and --int8 belong to a checkpoint; a bundle keeps its own\n",
    )


@pytest.mark.parametrize(
    "text", ["", "1", "1:2", "1:2:3:4", "a:b:c", "1:-2:3", "0:1:2", "3:2:1", "1:2:1", "²:3:4", "1:2:9999999999"]
)
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(OptionError, match="--batch is"):
        parse_profile(text)


def test_a_profile_is_read_as_it_is_written():
    assert parse_profile("1:32:256") == Profile(min=1, opt=32, max=256)
