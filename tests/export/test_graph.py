"""The ONNX graph is what serving expects, and `graph.check` refuses each graph that is not."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from export import graph, half
from export.errors import GraphError
from serve.engines.onnx_runtime import open_onnx_runtime
from train.models import ARCHITECTURES, Recogniser, build


def recogniser(architecture: str = "compact", **arguments: object) -> Recogniser:
    """A network with weights from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Recogniser(build(architecture, **arguments)).eval()


@pytest.fixture(scope="module")
def good() -> onnx.ModelProto:
    """The graph of an untrained `compact`. Tests that change it work on a copy."""
    return graph.convert(recogniser())


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    return duplicate


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


def test_pixels_go_in_as_bytes_and_probabilities_come_out(good):
    [given], [made] = good.graph.input, good.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("pixels", TensorProto.UINT8)
    assert (made.name, made.type.tensor_type.elem_type) == ("probabilities", TensorProto.FLOAT)


def test_the_batch_axis_has_no_fixed_size(good):
    assert dimensions(good.graph.input[0]) == ["batch", 1, 28, 28]
    assert dimensions(good.graph.output[0]) == ["batch", 10]


def test_a_converted_graph_passes_the_check(good):
    graph.check(good)


def test_the_same_weights_give_the_same_bytes(good):
    again = graph.convert(recogniser())
    assert again.SerializeToString(deterministic=True) == good.SerializeToString(deterministic=True)


def test_no_path_of_this_machine_is_left_in_the_graph(good):
    content = good.SerializeToString()
    assert not list(good.metadata_props)
    assert not [part for node in good.graph.node for part in node.metadata_props]
    assert not re.findall(rb"\.py\b|site-packages|File \"", content)
    for place in (Path.cwd(), Path.home(), sys.prefix):
        assert str(place).encode() not in content


@pytest.mark.parametrize("images", [1, 2, 5, 17])
def test_any_batch_size_gives_what_pytorch_gives(good, images):
    pixels = np.random.default_rng(images).integers(0, 256, (images, 1, 28, 28), dtype=np.uint8)
    with torch.inference_mode():
        expected = recogniser()(torch.from_numpy(pixels)).numpy()
    with open_onnx_runtime(good.SerializeToString()) as engine:
        found = engine.run(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


COMMITTEE = {
    "members": [
        {"architecture": "compact", "arguments": {"dropout": 0.1}},
        {"architecture": "one_by_one", "arguments": {}},
    ]
}


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"compact"}))
def test_every_architecture_becomes_a_graph_that_agrees_with_pytorch(architecture):
    network = recogniser(architecture, **(COMMITTEE if architecture == "committee" else {}))
    model = graph.convert(network)
    graph.check(model)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    with open_onnx_runtime(model.SerializeToString()) as engine:
        np.testing.assert_allclose(engine.run(pixels), expected, atol=1e-5)


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(GraphError, match=r"in training mode; call eval\(\) before converting"):
        graph.convert(recogniser().train())


# Each breaks a good graph in one way.


def freeze_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def take_floats(model: onnx.ModelProto) -> None:
    # Valid in itself: the conversion that comes first takes floats as well.
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if name == "pixels" else name for name in node.input]


def drop_softmax(model: onnx.ModelProto) -> None:
    softmax = model.graph.node.pop()
    logits = model.graph.node[-1]
    assert softmax.op_type == "Softmax"
    assert list(softmax.input) == list(logits.output)
    logits.output[:] = ["probabilities"]


def add_output(model: onnx.ModelProto) -> None:
    logits = model.graph.node[-1].input[0]
    model.graph.output.insert(0, helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", 10]))


def leave_dropout(model: onnx.ModelProto) -> None:
    softmax = model.graph.node.pop()
    model.graph.node.append(helper.make_node("Dropout", list(softmax.input), ["thinned"]))
    softmax.input[:] = ["thinned"]
    model.graph.node.append(softmax)


def leave_batch_norm(model: onnx.ModelProto) -> None:
    softmax = model.graph.node.pop()
    parts = ["scale", "bias", "mean", "variance"]
    model.graph.initializer.extend(helper.make_tensor(part, TensorProto.FLOAT, [10], [1.0] * 10) for part in parts)
    model.graph.node.append(helper.make_node("BatchNormalization", [softmax.input[0], *parts], ["normalised"]))
    softmax.input[:] = ["normalised"]
    model.graph.node.append(softmax)


BREAKAGES: dict[Callable[[onnx.ModelProto], None], str] = {
    freeze_batch: r"input pixels has shape \[2, 1, 28, 28\], expected \['batch', 1, 28, 28\]",
    take_floats: r"input pixels is FLOAT, expected UINT8",
    rename_input: r"inputs are \['image'\], expected \['pixels'\]",
    drop_softmax: r"the last node is \['Gemm'\], expected Softmax",
    add_output: r"outputs are \[.*, 'probabilities'\], expected \['probabilities'\]",
    leave_dropout: r"1 Dropout nodes are left; was the network in training mode\?",
    leave_batch_norm: r"1 BatchNormalization nodes are left; was the network in training mode\?",
}


@pytest.mark.parametrize(("breakage", "finding"), BREAKAGES.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_a_graph_broken_in_one_way_is_refused_with_that_finding(good, breakage, finding):
    model = copy(good)
    breakage(model)
    with pytest.raises(GraphError, match=finding) as caught:
        graph.check(model)
    assert str(caught.value).startswith("the graph is not what serving expects: ")


def test_all_findings_are_listed_at_once(good):
    model = copy(good)
    take_floats(model)
    leave_dropout(model)
    with pytest.raises(GraphError, match=r"FLOAT, expected UINT8.*; 1 Dropout nodes are left"):
        graph.check(model)


def cut_a_wire(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[:] = ["nowhere"]


def forget_the_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def misshape_a_weight(model: onnx.ModelProto) -> None:
    bias = next(each for each in model.graph.initializer if list(each.dims) == [10])
    bias.CopyFrom(helper.make_tensor(bias.name, TensorProto.FLOAT, [7], [0.0] * 7))


@pytest.mark.parametrize("breakage", [cut_a_wire, forget_the_opset, misshape_a_weight])
def test_what_is_no_valid_onnx_is_refused(good, breakage):
    model = copy(good)
    breakage(model)
    with pytest.raises(GraphError, match="the graph is not valid ONNX: "):
        graph.check(model)


def test_an_empty_model_is_refused():
    with pytest.raises(GraphError, match="not valid ONNX"):
        graph.check(onnx.ModelProto())


def test_weights_in_a_second_file_are_refused(good):
    model = copy(good)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    with pytest.raises(GraphError, match=r"second file|not valid ONNX"):
        graph.check(model)


def test_a_recogniser_that_does_not_end_in_softmax_is_refused():
    class Logits(Recogniser):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network(pixels.to(torch.float32))

    model = graph.convert(Logits(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))).eval())
    with pytest.raises(GraphError, match="expected Softmax"):
        graph.check(model)


# In half precision


@pytest.fixture(scope="module")
def halved() -> onnx.ModelProto:
    """As `good`, in FP16."""
    return graph.convert(half.halve(recogniser()))


def test_a_halved_graph_passes_the_check_and_has_the_same_border(good, halved):
    graph.check(halved, "fp16")
    assert list(halved.graph.input) == list(good.graph.input)
    assert list(halved.graph.output) == list(good.graph.output)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"compact"}))
def test_every_architecture_becomes_an_fp16_graph_that_agrees_with_pytorch(architecture):
    network = recogniser(architecture, **(COMMITTEE if architecture == "committee" else {}))
    model = graph.convert(half.halve(network))
    graph.check(model, "fp16")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    with open_onnx_runtime(model.SerializeToString()) as engine:
        np.testing.assert_allclose(engine.run(pixels), expected, atol=2e-3)


def test_the_body_of_a_halved_graph_has_fp16_weights_and_nothing_larger(halved):
    large = [tensor for tensor in halved.graph.initializer if np.prod(tensor.dims) > 1]
    kinds = {tensor.data_type for tensor in large if tensor.data_type != TensorProto.INT64}  # shapes are INT64
    assert kinds == {TensorProto.FLOAT16}


def test_the_same_weights_give_the_same_bytes_in_fp16(halved):
    again = graph.convert(half.halve(recogniser()))
    assert again.SerializeToString(deterministic=True) == halved.SerializeToString(deterministic=True)


def test_no_path_of_this_machine_is_left_in_an_fp16_graph(halved):
    content = halved.SerializeToString()
    assert not list(halved.metadata_props)
    assert not [part for node in halved.graph.node for part in node.metadata_props]
    assert not re.findall(rb"\.py\b|site-packages|File \"", content)
    for place in (Path.cwd(), Path.home(), sys.prefix):
        assert str(place).encode() not in content


def test_a_graph_of_one_precision_is_refused_as_the_other(good, halved):
    with pytest.raises(GraphError, match=r"; the graph's casts are \['UINT8 to FLOAT'\], expected .*FLOAT to FLOAT16'"):
        graph.check(good, "fp16")
    with pytest.raises(GraphError, match=r": 7 layers are not FLOAT16: Conv \S+ is FLOAT, .*Gemm \S+ is FLOAT; "):
        graph.check(good, "fp16")
    with pytest.raises(
        GraphError, match=r": 7 layers are not FLOAT: .*; the graph's casts are .* expected \['UINT8 to"
    ):
        graph.check(halved)


def node(model: onnx.ModelProto, kind: str, place: int = 0) -> onnx.NodeProto:
    return [each for each in model.graph.node if each.op_type == kind][place]


def cast(model: onnx.ModelProto, before: onnx.NodeProto, *kinds: int) -> None:
    """Let the first input of a node pass through casts to these types."""
    for kind in kinds:
        made = f"{before.input[0]}_cast"
        place = list(model.graph.node).index(before)
        model.graph.node.insert(place, helper.make_node("Cast", [before.input[0]], [made], to=kind))
        before.input[0] = made


def widen_weights(model: onnx.ModelProto, *names: str) -> None:
    """Turn weights, all where none are named, from FP16 to FP32."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and (tensor.name in names or not names):
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    del model.graph.value_info[:]


def drop_last_cast(model: onnx.ModelProto) -> None:
    final = node(model, "Cast", -1)
    model.graph.node[-1].input[0] = final.input[0]
    model.graph.node.remove(final)


def stray_casts(model: onnx.ModelProto) -> None:
    cast(model, node(model, "Conv", 2), TensorProto.FLOAT, TensorProto.FLOAT16)


def detour_before_the_body(model: onnx.ModelProto) -> None:
    # Rounds to FP16 and computes in FP32: the casts alone look right.
    widen_weights(model)
    drop_last_cast(model)
    cast(model, node(model, "Conv"), TensorProto.FLOAT)


def one_layer_in_fp32(model: onnx.ModelProto) -> None:
    gemm = node(model, "Gemm")
    widen_weights(model, *gemm.input[1:])
    drop_last_cast(model)
    cast(model, gemm, TensorProto.FLOAT)


def soft_max_in_fp16(model: onnx.ModelProto) -> None:
    drop_last_cast(model)
    model.graph.node[-1].output[0] = "narrow"
    model.graph.node.append(helper.make_node("Cast", ["narrow"], ["probabilities"], to=TensorProto.FLOAT))


def fp16_output(model: onnx.ModelProto) -> None:
    drop_last_cast(model)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


HALF_BREAKAGES: dict[Callable[[onnx.ModelProto], None], str] = {
    freeze_batch: r"input pixels has shape \[2, 1, 28, 28\], expected \['batch', 1, 28, 28\]",
    stray_casts: r"the graph's casts are \['UINT8 to FLOAT', 'FLOAT to FLOAT16', 'FLOAT16 to FLOAT', 'FLOAT to FLO",
    detour_before_the_body: r"expects: 7 layers are not FLOAT16: [^;]*$",
    one_layer_in_fp32: r"expects: 1 layers are not FLOAT16: Gemm \S+ is FLOAT$",
    soft_max_in_fp16: r"the last node is \['Cast'\], expected Softmax",
    fp16_output: r"output probabilities is FLOAT16, expected FLOAT",
}


@pytest.mark.parametrize(
    ("breakage", "finding"), HALF_BREAKAGES.items(), ids=lambda part: getattr(part, "__name__", "")
)
def test_a_halved_graph_broken_in_one_way_is_refused_with_that_finding(halved, breakage, finding):
    model = copy(halved)
    breakage(model)
    with pytest.raises(GraphError, match=finding) as caught:
        graph.check(model, "fp16")
    assert str(caught.value).startswith("the graph is not what serving expects: ")


def test_types_that_do_not_fit_together_are_no_valid_onnx(halved):
    model = copy(halved)
    drop_last_cast(model)
    with pytest.raises(GraphError, match="the graph is not valid ONNX: "):
        graph.check(model, "fp16")
