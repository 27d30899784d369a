"""INT8 graphs, by the real quantiser: what they are made of, and what gate and server make of them."""

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import helper

from bundle import Bundle
from export import graph, to_onnx
from export.errors import GraphError
from export.quantise import quantise
from serve.engines.onnx_runtime import open_onnx_runtime
from serve.engines.selection import select
from serve.errors import StartupError
from train import data


@pytest.fixture(scope="module")
def fp32(bundle) -> onnx.ModelProto:
    return onnx.load(bundle / "model.onnx")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return data.load("digits8x8").train.pixels.numpy()


@pytest.fixture(scope="module")
def int8(fp32, images) -> onnx.ModelProto:
    return quantise(fp32, images)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """A bundle made with --int8."""
    target = tmp_path_factory.mktemp("int8") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["to_onnx", str(checkpoint), "--int8", "--output", str(target)])
        assert to_onnx.main() == 0
    return target


def test_every_heavy_layer_takes_eight_bits(int8):
    graph.check(int8, "int8")
    weights = {tensor.name: tensor.data_type for tensor in int8.graph.initializer}
    made = {node.output[0]: node for node in int8.graph.node}
    for node in int8.graph.node:
        if node.op_type in graph.HEAVY:
            assert weights[made[node.input[1]].input[0]] == onnx.TensorProto.INT8


def test_it_is_smaller_by_half_and_more(fp32, int8):
    assert int8.ByteSize() < fp32.ByteSize() / 2


def test_the_same_weights_and_images_give_the_same_bytes(fp32, images, int8):
    again = quantise(fp32, images)
    assert again.SerializeToString(deterministic=True) == int8.SerializeToString(deterministic=True)


def test_other_images_give_other_scales(fp32, images, int8):
    assert quantise(fp32, images // 2).SerializeToString() != int8.SerializeToString()


def test_its_answers_are_those_of_the_fp32_graph_but_for_the_undecided(fp32, int8):
    pixels = data.load("digits8x8").test.pixels.numpy()
    with (
        open_onnx_runtime(fp32.SerializeToString()) as wide,
        open_onnx_runtime(int8.SerializeToString()) as narrow,
    ):
        ours, theirs = wide.run(pixels), narrow.run(pixels)
    assert 0 < np.abs(ours - theirs).max() < 0.25
    assert np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1)) > 0.99


def test_a_graph_that_was_not_quantised_is_not_taken_for_one_that_was(fp32):
    with pytest.raises(GraphError, match="7 layers are not INT8: Conv "):
        graph.check(fp32, "int8")


def test_a_single_layer_with_wide_weights_is_found(int8):
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(int8)
    place, conv = next((index, node) for index, node in enumerate(spoilt.graph.node) if node.op_type == "Conv")
    weights = conv.input[1]
    conv.input[1] = "wide"
    spoilt.graph.node.insert(place, helper.make_node("Identity", [weights], ["wide"]))
    with pytest.raises(GraphError, match="1 layers are not INT8"):
        graph.check(spoilt, "int8")


def test_it_goes_through_the_gate_and_into_the_bundle(exported):
    manifest = Bundle.open(exported).manifest
    assert {name: each.precision for name, each in manifest.graphs.items()} == {
        "model.onnx": "fp32",
        "model.int8.onnx": "int8",
        "model.fp16.onnx": "fp16",
    }
    checks = {check["name"]: check for check in json.loads((exported / "parity.json").read_text())["checks"]}
    assert checks["onnx int8"]["comparison"]["images"] == 360
    assert checks["onnx int8"]["comparison"]["max_difference"] > checks["onnx fp32"]["comparison"]["max_difference"]


def test_a_server_on_a_cpu_prefers_it_and_serves_fp32_where_it_is_told_to(exported):
    bundle = Bundle.open(exported)
    assert select(bundle, "onnxruntime-int8").file == "model.int8.onnx"
    with select(bundle, "onnxruntime-int8").open() as engine:
        assert engine.precision == "int8"
    assert select(bundle, "onnxruntime").file == "model.onnx"


def test_a_bundle_without_it_says_so_where_it_is_asked_for(bundle):
    with pytest.raises(StartupError, match=r"has no model\.int8\.onnx; it has model\.fp16\.onnx, .* with --int8"):
        select(Bundle.open(bundle), "onnxruntime-int8")
