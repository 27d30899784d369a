"""The ONNX graph: made from a recogniser, and checked to be what serving expects.

uint8 `pixels` [batch, 1, 28, 28] in, float32 `probabilities` [batch, 10] out, scaling, normalisation and soft-max
inside, any batch size, one file. The types in the graph decide the arithmetic: in half precision, everything between
normalisation and soft-max is FP16.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import onnx
import torch

from export.errors import GraphError
from train.models import Recogniser

Precision = Literal["fp32", "fp16", "int8"]

INPUT, OUTPUT, BATCH = "pixels", "probabilities", "batch"

# Understood by every ONNX Runtime and TensorRT that this project supports.
OPSET = 20

_IMAGE = (1, 28, 28)
_CLASSES = 10

# The layers that do nearly all of the arithmetic, and the type that they must have. INT8 is written as FP32 layers
# between pairs that quantise and dequantise, which engines fuse.
HEAVY = ("Conv", "Gemm", "MatMul")
_BODY = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.FLOAT}
# The only changes of type in a graph, in order.
_CASTS = {
    "fp32": ["UINT8 to FLOAT"],
    "fp16": ["UINT8 to FLOAT", "FLOAT to FLOAT16", "FLOAT16 to FLOAT"],
    "int8": ["UINT8 to FLOAT"],
}


def convert(recogniser: Recogniser) -> onnx.ModelProto:
    """Trace a recogniser into an ONNX graph. The same weights give the same bytes.

    Raises:
        GraphError: The recogniser is in training mode: dropout and batch statistics would be exported with it.
    """
    if recogniser.training:
        raise GraphError("the network is in training mode; call eval() before converting")
    example = torch.zeros((2, *_IMAGE), dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            recogniser,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"pixels": {0: torch.export.Dim(BATCH, min=1)}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    strip(model)
    return model


def check(model: onnx.ModelProto, precision: Precision = "fp32") -> None:
    """Check a graph against the contract at the top of this module.

    Raises:
        GraphError: It is no valid ONNX, or the contract is broken; all findings are listed.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the graph is not valid ONNX: {error}") from error
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    findings = [
        *_check_border("input", model.graph.input, INPUT, uint8, (BATCH, *_IMAGE)),
        *_check_border("output", model.graph.output, OUTPUT, float32, (BATCH, _CLASSES)),
        *_check_nodes(model),
        *_check_types(model, precision),
    ]
    if findings:
        raise GraphError("the graph is not what serving expects: " + "; ".join(findings))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own internals, which is no news to the user; what it makes is checked."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def strip(model: onnx.ModelProto) -> None:
    """Drop an exporter's notes: stack traces with local paths, and the names of its source lines."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    for parts in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for part in parts:
            del part.metadata_props[:]
            part.doc_string = ""


def _check_border(
    kind: str, values: Iterable[onnx.ValueInfoProto], name: str, dtype: int, shape: tuple[str | int, ...]
) -> list[str]:
    found = {value.name: value.type.tensor_type for value in values}
    if list(found) != [name]:
        return [f"{kind}s are {list(found)}, expected [{name!r}]"]
    tensor = found[name]
    findings = []
    if tensor.elem_type != dtype:
        received, expected = (onnx.TensorProto.DataType.Name(each) for each in (tensor.elem_type, dtype))
        findings.append(f"{kind} {name} is {received}, expected {expected}")
    dimensions = tuple(each.dim_param or each.dim_value for each in tensor.shape.dim)
    if dimensions != shape:
        findings.append(f"{kind} {name} has shape {list(dimensions)}, expected {list(shape)}")
    return findings


def _check_nodes(model: onnx.ModelProto) -> list[str]:
    operators = [node.op_type for node in model.graph.node]
    # In evaluation mode dropout vanishes and batch norm is folded into the convolutions.
    findings = [
        f"{operators.count(unwanted)} {unwanted} nodes are left; was the network in training mode?"
        for unwanted in ("Dropout", "BatchNormalization")
        if unwanted in operators
    ]
    if operators[-1:] != ["Softmax"]:
        findings.append(f"the last node is {operators[-1:]}, expected Softmax")
    elif {attribute.name: attribute.i for attribute in model.graph.node[-1].attribute}.get("axis", -1) not in (1, -1):
        findings.append("the soft-max is not over the ten digits of an image")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        findings.append("weights lie in a second file; a bundle's graph is one file")
    return findings


def _check_types(model: onnx.ModelProto, precision: Precision) -> Iterator[str]:
    """Whether the arithmetic is of one precision, with no change of type but those at the borders of the body."""
    name = onnx.TensorProto.DataType.Name
    types = _types(onnx.shape_inference.infer_shapes(model, strict_mode=True).graph)
    wrong = [
        f"{node.op_type} {node.name or node.output[0]} is {name(types[node.output[0]])}"
        for node in model.graph.node
        if node.op_type in HEAVY and types[node.output[0]] != _BODY[precision]
    ]
    if wrong:
        yield f"{len(wrong)} layers are not {name(_BODY[precision])}: {', '.join(wrong)}"
    if precision == "int8":
        yield from _check_quantised(model)
    casts = [
        f"{name(types[node.input[0]])} to {name(types[node.output[0]])}"
        for node in model.graph.node
        if node.op_type == "Cast"
    ]
    if casts != _CASTS[precision]:
        yield f"the graph's casts are {casts}, expected {_CASTS[precision]}"


def _check_quantised(model: onnx.ModelProto) -> Iterator[str]:
    """Whether each heavy layer takes data and weights that have been quantised to eight bits."""
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    wide = [
        f"{node.op_type} {node.name or node.output[0]}"
        for node in model.graph.node
        if node.op_type in HEAVY and not dequantised.issuperset(node.input[:2])
    ]
    if wide:
        yield f"{len(wide)} layers are not INT8: {', '.join(wide)}"


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of each value by its name."""
    values = {
        value.name: value.type.tensor_type.elem_type
        for values in (graph.input, graph.value_info, graph.output)
        for value in values
    }
    return {tensor.name: tensor.data_type for tensor in graph.initializer} | values
