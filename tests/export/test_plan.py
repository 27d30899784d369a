"""Plans, built by the real builder of TensorRT for RTX, which needs no GPU; its refusals are provoked for real."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tensorrt_rtx")

from bundle.manifest import Profile
from export import graph, half
from export.errors import PlanError
from export.plan import Audit, BuildOptions, build, version
from serve.engines.tensorrt import LOGGER
from train.models import ARCHITECTURES, Recogniser
from train.models import build as build_network

ROOT = Path(__file__).resolve().parents[2]
PROFILE = Profile(min=1, opt=32, max=256)
NETWORKS = sorted(ARCHITECTURES.keys() - {"committee"})


def recogniser(architecture: str) -> Recogniser:
    """A network with weights from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Recogniser(build_network(architecture)).eval()


def onnx_graph(architecture: str = "compact", precision: graph.Precision = "fp16") -> bytes:
    right = recogniser(architecture)
    prepared = half.halve(right) if precision == "fp16" else half.folded(right)
    return graph.convert(prepared).SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def good() -> bytes:
    return onnx_graph()


def build_one(content: bytes, **options: object) -> object:
    return build(content, "fp16", BuildOptions(**{"profiles": [PROFILE], **options}))


# What is built


@pytest.mark.parametrize("architecture", NETWORKS)
def test_every_network_becomes_a_plan_whose_heavy_layers_are_all_fp16(architecture):
    layers = [type(layer).__name__ for layer in recogniser(architecture).network.modules()]
    plan = build_one(onnx_graph(architecture))
    assert plan.audit == Audit(convolutions={"HALF": layers.count("Conv2d")}, products={"HALF": layers.count("Linear")})
    assert len(plan.content) > 10_000


@pytest.mark.parametrize("model", ["champion", "compact"])
def test_the_shipped_models_become_plans(model):
    content = (ROOT / "pretrained" / model / "model.fp16.onnx").read_bytes()
    assert build_one(content).audit.convolutions.keys() == {"HALF"}


def test_fp32_is_fp32():
    plan = build(onnx_graph(precision="fp32"), "fp32", BuildOptions(profiles=[PROFILE]))
    assert plan.audit == Audit(convolutions={"FLOAT": 6}, products={"FLOAT": 1})


def test_several_profiles_make_one_plan(good):
    assert build_one(good, profiles=[Profile(min=1, opt=1, max=1), PROFILE]).content


def test_progress_is_told_by_step_and_share(good):
    told = []
    build(good, "fp16", BuildOptions(profiles=[PROFILE]), lambda step, done: told.append((step, done)))
    assert "Building engine" in {step for step, _ in told}
    assert all(0 < done <= 1 for _, done in told)


def test_the_version_is_the_installed_one():
    assert version().count(".") >= 2


# What is refused


def test_a_graph_of_the_wrong_precision_never_becomes_a_plan(good):
    message = (
        "the plan would not be fp32: 7 layers are not FLOAT, such as .* takes HALF and gives HALF; .* export it again"
    )
    with pytest.raises(PlanError, match=message):
        build(good, "fp32", BuildOptions(profiles=[PROFILE]))
    with pytest.raises(PlanError, match=r"would not be fp16: 7 layers are not HALF, such as .* takes FLOAT"):
        build_one(onnx_graph(precision="fp32"))


def stayed_fp32(content: bytes) -> bytes:
    """One convolution in FP32 in an FP16 graph: what a converter with a block list leaves."""
    model = onnx.load_from_string(content)
    nodes = list(model.graph.node)
    place = next(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    conv = nodes[place]
    before = [helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT) for name in conv.input]
    after = helper.make_node("Cast", [f"{conv.output[0]}_wide"], [conv.output[0]], to=TensorProto.FLOAT16)
    conv.input[:] = [f"{name}_wide" for name in conv.input]
    conv.output[0] = f"{conv.output[0]}_wide"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *before, conv, after, *nodes[place + 1 :]])
    del model.graph.value_info[:]
    return model.SerializeToString()


def test_a_single_layer_that_stayed_fp32_is_found(good):
    with pytest.raises(PlanError, match=r"1 layers are not HALF, such as .* takes FLOAT and gives FLOAT"):
        build_one(stayed_fp32(good))


def test_without_a_profile_the_builder_says_what_is_missing(good):
    with pytest.raises(PlanError, match=r"the builder refused the network: .*no optimization profile has been defined"):
        build_one(good, profiles=[])


def test_sizes_out_of_order_are_refused_by_the_builder_as_well(good):
    backwards = SimpleNamespace(min=8, opt=4, max=16)  # which a Profile is not
    with pytest.raises(PlanError, match=r"the builder refused the batch sizes .*min=8, opt=4, max=16.*: "):
        build_one(good, profiles=[backwards])


def test_a_workspace_too_small_is_told_as_such(good):
    with pytest.raises(PlanError, match="no tactics to implement the operation within workspace limit"):
        build_one(good, workspace_bytes=1)


def test_a_library_that_version_compatibility_needs_is_named(good):
    with pytest.raises(PlanError, match="Unable to load library: libnvinfer_lean"):
        build_one(good, version_compatible=True)


def renamed_input(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.input[0].name = "images"
    for node in model.graph.node:
        node.input[:] = ["images" if name == "pixels" else name for name in node.input]
    return model.SerializeToString()


def unknown_operator(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Gnirps"
    return model.SerializeToString()


def mixed_types(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda content: content[:5000],
            r"the parser refused the graph: .*Failed to parse the ONNX model.*DESERIALIZE",
        ),
        (lambda content: b"", "the network has no convolution; a graph of python -m export.to_onnx was expected"),
        (renamed_input, r"the builder refused the network: .*images"),
        (unknown_operator, r"the parser refused the graph: .*Gnirps"),
        (mixed_types, r"the parser refused the graph: .*must have the same|type"),
    ],
    ids=["truncated", "empty", "wrong input name", "unknown operator", "mixed types"],
)
def test_a_spoilt_graph_is_refused_in_the_parsers_or_the_builders_own_words(good, spoil, message):
    with pytest.raises(PlanError, match=message):
        build_one(spoil(good))


def test_after_a_refusal_the_next_build_works_and_repeats_no_old_reason(good):
    with pytest.raises(PlanError, match="no optimization profile"):
        build_one(good, profiles=[])
    with pytest.raises(PlanError) as caught:
        build_one(good, workspace_bytes=1)
    assert "profile" not in str(caught.value)
    assert build_one(good).content


# Ctrl-C


@pytest.mark.parametrize("caller", ["progress", "logger"])
def test_an_interrupt_stops_the_builder_wherever_the_library_calls_us(good, monkeypatch, caller):
    """What is raised there the library would print and forget."""
    pressed = []

    def press(*_: object) -> None:
        if not pressed:
            pressed.append(1)
            signal.raise_signal(signal.SIGINT)

    if caller == "logger":
        monkeypatch.setattr(type(LOGGER), "log", press)
    # Whatever started the tests may ignore it.
    original = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(good, "fp16", BuildOptions(profiles=[PROFILE]), press if caller == "progress" else lambda *_: None)
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, original)
    monkeypatch.undo()
    assert build_one(good).content


PRESS_CTRL_C = """
import os, signal, sys
from export import plan, to_trt
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
build = plan.build
def pressed(graph, precision, options, report):
    return build(graph, precision, options, lambda step, done: os.kill(os.getpid(), signal.SIGINT))
plan.build = pressed
sys.argv = ["to_trt", "--bundle", sys.argv[1]]
sys.exit(to_trt.main())
"""


def test_ctrl_c_during_a_build_leaves_the_bundle_as_it_was(bundle, tmp_path):
    own = Path(shutil.copytree(bundle, tmp_path / "own"))
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", PRESS_CTRL_C, own], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "interrupted: no plan was published\n")
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
