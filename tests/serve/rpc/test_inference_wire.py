"""From Open Inference messages to arrays and back: every way to say it right, and what is said to those who do not."""

import struct
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from protos.inference import inference_pb2 as pb
from serve.batcher import Answer
from serve.errors import InvalidRequest
from serve.model import Description
from serve.rpc.inference_wire import (
    read_classes,
    read_id,
    read_pixels,
    read_timeout_s,
    write_answer,
    write_refusal,
    write_streamed,
)
from serve.rpc.status import Refusal
from tests.fakes import images

MODEL = Description(
    name="compact",
    version="3",
    architecture="compact",
    labels=[f"digit {digit}" for digit in range(10)],
    max_batch=4,
    max_images_per_request=8,
    sha256="",
    accuracy=1.0,
)


def parameter(**value: Any) -> pb.InferParameter:
    return pb.InferParameter(**value)


def request(count: int = 2, *, typed: bool = False) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="pixels", datatype="UINT8", shape=[count, 1, 28, 28])
    if typed:
        tensor.contents.uint_contents.extend(images(count).flatten().tolist())
    else:
        message.raw_input_contents.append(images(count).tobytes())
    return message


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("count", [1, 8])
def test_the_images_are_those_that_were_sent(count: int, typed: bool) -> None:
    pixels = read_pixels(request(count, typed=typed), max_images=8)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, images(count))


def no_input(message: pb.ModelInferRequest) -> None:
    del message.inputs[:]


def two_inputs(message: pb.ModelInferRequest) -> None:
    message.inputs.add().CopyFrom(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


def shape(*numbers: int) -> Callable[[pb.ModelInferRequest], None]:
    def change(message: pb.ModelInferRequest) -> None:
        message.inputs[0].shape[:] = numbers

    return change


def raw(*contents: bytes) -> Callable[[pb.ModelInferRequest], None]:
    def change(message: pb.ModelInferRequest) -> None:
        message.raw_input_contents[:] = contents

    return change


def named(**values: str) -> Callable[[pb.ModelInferRequest], None]:
    def change(message: pb.ModelInferRequest) -> None:
        for name, value in values.items():
            setattr(message.inputs[0], name, value)

    return change


def typed(**contents: list[Any]) -> Callable[[pb.ModelInferRequest], None]:
    def change(message: pb.ModelInferRequest) -> None:
        del message.raw_input_contents[:]
        message.inputs[0].contents.CopyFrom(pb.InferTensorContents(**contents))

    return change


def also_typed(message: pb.ModelInferRequest) -> None:
    message.inputs[0].contents.uint_contents.append(1)


def in_shared_memory(message: pb.ModelInferRequest) -> None:
    del message.raw_input_contents[:]
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_input, "0 inputs are sent; one was expected, 'pixels'"),
        (two_inputs, "2 inputs are sent; one was expected, 'pixels'"),
        (named(name="image"), "input 'image' is sent; 'pixels' was expected"),
        (named(datatype="FP32"), "has datatype 'FP32'; 'UINT8' was expected"),
        (named(datatype=""), "has datatype ''; 'UINT8' was expected"),
        (shape(), r"has shape \[\]; \[N, 1, 28, 28\] was expected, N from 1 to 8"),
        (shape(2, 28, 28), r"has shape \[2, 28, 28\]"),
        (shape(2, 28, 28, 1), r"has shape \[2, 28, 28, 1\]"),
        (shape(0, 1, 28, 28), r"has shape \[0, 1, 28, 28\]"),
        (shape(-1, 1, 28, 28), r"has shape \[-1, 1, 28, 28\]"),
        (shape(*range(999)), r"has shape \[0, 1, 2, 3, 4, 5, 6, 7\] and more;"),
        (shape(9, 1, 28, 28), "has 9 images; at most 8 are accepted"),
        (shape(1 << 62, 1, 28, 28), "at most 8 are accepted"),
        (raw(), "raw_input_contents has 0 entries and input 'pixels' no contents"),
        (raw(b"", b""), "raw_input_contents has 2 entries"),
        (raw(b""), "has 0 bytes; its shape has 2 x 784 = 1568"),
        (raw(bytes(1567)), "has 1567 bytes; its shape has 2 x 784 = 1568"),
        (raw(np.full(1568, np.nan, np.float32).tobytes()), "has 6272 bytes"),
        (also_typed, "sent twice, in contents and in raw_input_contents"),
        (typed(), "has 0 bytes"),
        (typed(uint_contents=[1] * 1569), "has 1569 bytes"),
        (typed(uint_contents=[1] * 1567 + [256]), "has an element 256; 0 to 255 was expected"),
        (typed(fp32_contents=[float("nan")] * 1568), "is sent as fp32_contents; uint_contents was expected"),
        (typed(int_contents=[-1], uint_contents=[1] * 1568), "is sent as int_contents"),
        (typed(bytes_contents=[bytes(1568)]), "is sent as bytes_contents"),
        (in_shared_memory, "shared memory, which this server has none of; send the bytes"),
    ],
)
def test_what_is_no_tensor_of_images_is_refused_by_what_came_and_what_was_expected(
    change: Callable[[pb.ModelInferRequest], None], message: str
) -> None:
    spoilt = request()
    change(spoilt)
    with pytest.raises(InvalidRequest, match=message):
        read_pixels(spoilt, max_images=8)


@pytest.mark.parametrize(
    ("outputs", "classes"),
    [
        ([], 0),
        ([{"name": "probabilities"}], 0),
        ([{"name": "probabilities", "parameters": {"binary_data": parameter(bool_param=True)}}], 0),
        ([{"name": "probabilities", "parameters": {"classification": parameter(int64_param=1)}}], 1),
        ([{"name": "probabilities", "parameters": {"classification": parameter(uint64_param=3)}}], 3),
        ([{"name": "probabilities", "parameters": {"classification": parameter(int64_param=1000)}}], 10),
    ],
)
def test_outputs_are_asked_for_by_name_or_not_at_all(outputs: list[dict[str, Any]], classes: int) -> None:
    asked = [pb.ModelInferRequest.InferRequestedOutputTensor(**output) for output in outputs]
    assert read_classes(pb.ModelInferRequest(outputs=asked)) == classes


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "logits"}], "output 'logits' is requested; 'probabilities' is the only one"),
        ([{"name": "probabilities"}] * 2, "2 outputs are requested"),
        (
            [{"name": "probabilities", "parameters": {"classification": parameter(int64_param=0)}}],
            "'classification' is 0; 1 to 10 was expected",
        ),
        (
            [{"name": "probabilities", "parameters": {"classification": parameter(int64_param=-1)}}],
            "'classification' is -1",
        ),
        (
            [{"name": "probabilities", "parameters": {"classification": parameter(string_param="3")}}],
            "'classification' is sent as string_param; int64_param was expected",
        ),
        (
            [{"name": "probabilities", "parameters": {"shared_memory_region": parameter(string_param="region")}}],
            "output 'probabilities' is said to be in shared memory",
        ),
    ],
)
def test_other_outputs_are_refused(outputs: list[dict[str, Any]], message: str) -> None:
    asked = [pb.ModelInferRequest.InferRequestedOutputTensor(**output) for output in outputs]
    with pytest.raises(InvalidRequest, match=message):
        read_classes(pb.ModelInferRequest(outputs=asked))


@pytest.mark.parametrize(
    ("parameters", "deadline_s", "seconds"),
    [
        ({}, None, None),
        ({}, 2.0, 2.0),
        ({"timeout": parameter(int64_param=500_000)}, None, 0.5),
        ({"timeout": parameter(uint64_param=500_000)}, 2.0, 0.5),
        ({"timeout": parameter(int64_param=5_000_000)}, 2.0, 2.0),
        ({"timeout": parameter(int64_param=0)}, None, None),
        (
            {
                "triton_enable_empty_final_response": parameter(bool_param=True),
                "sequence_id": parameter(string_param="x"),
                "priority": parameter(uint64_param=1),
                "mine": parameter(double_param=0.5),
            },
            2.0,
            2.0,
        ),
    ],
)
def test_the_timeout_is_the_shorter_of_parameter_and_deadline_and_other_parameters_are_ignored(
    parameters: dict[str, pb.InferParameter], deadline_s: float | None, seconds: float | None
) -> None:
    assert read_timeout_s(pb.ModelInferRequest(parameters=parameters), deadline_s) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (parameter(int64_param=-1), "'timeout' is -1; 0 or more was expected"),
        (parameter(double_param=1.5), "'timeout' is sent as double_param; int64_param was expected"),
        (parameter(), "'timeout' is sent as None"),
    ],
)
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(value: pb.InferParameter, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_timeout_s(pb.ModelInferRequest(parameters={"timeout": value}), None)


def test_no_more_parameters_are_taken_in_than_anybody_needs() -> None:
    many = {str(number): parameter(bool_param=True) for number in range(65)}
    message = request()
    message.inputs[0].MergeFrom(pb.ModelInferRequest.InferInputTensor(parameters=many))
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities", parameters=many)
    for read in (
        lambda: read_timeout_s(pb.ModelInferRequest(parameters=many), None),
        lambda: read_classes(pb.ModelInferRequest(outputs=[output])),
        lambda: read_pixels(message, max_images=8),
    ):
        with pytest.raises(InvalidRequest, match="has 65 parameters; at most 64 were expected"):
            read()


def test_an_id_comes_back_unless_it_is_too_long() -> None:
    assert read_id(pb.ModelInferRequest(id="ä" * 256)) == "ä" * 256
    with pytest.raises(InvalidRequest, match="id has 257 characters; at most 256 were expected"):
        read_id(pb.ModelInferRequest(id="x" * 257))


def answer(*rows: list[float]) -> Answer:
    return Answer(probabilities=np.array(rows, np.float32), queue_s=0.0, compute_s=0.0, batch_size=len(rows))


def test_probabilities_are_little_endian_rows() -> None:
    rows = np.random.default_rng(0).random((3, 10), np.float32)
    written = write_answer(answer(*rows.tolist()), MODEL, classes=0, request_id="7")
    response = pb.ModelInferResponse.FromString(written)
    assert (response.model_name, response.model_version, response.id) == ("compact", "3", "7")
    [output] = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("probabilities", "FP32", [3, 10])
    assert response.raw_output_contents[0] == struct.pack("<30f", *rows.flatten())


def test_classes_are_listed_as_value_index_label_most_probable_first_and_of_equal_ones_the_smaller_digit() -> None:
    first = [0.0, 0.25, 0.0, 0.5, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0]
    second = [0.0] * 9 + [1.0]
    response = pb.ModelInferResponse.FromString(write_answer(answer(first, second), MODEL, classes=3, request_id=""))
    [output] = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 3])
    expected = [
        *(b"0.500000:3:digit 3", b"0.250000:1:digit 1", b"0.250000:5:digit 5"),
        *(b"1.000000:9:digit 9", b"0.000000:0:digit 0", b"0.000000:1:digit 1"),
    ]
    assert response.raw_output_contents[0] == b"".join(struct.pack("<I", len(each)) + each for each in expected)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_an_answer_in_a_stream_is_the_answer(count: int) -> None:
    written = write_answer(answer(*[[0.1] * 10] * count), MODEL, classes=0, request_id="7")
    response = pb.ModelStreamInferResponse.FromString(write_streamed(written))
    assert response.error_message == ""
    assert response.infer_response == pb.ModelInferResponse.FromString(written)


@pytest.mark.parametrize(("sent", "given_back"), [("7", "7"), ("x" * 1000, "x" * 256)])
def test_a_refusal_in_a_stream_has_the_requests_id(sent: str, given_back: str) -> None:
    refusal = Refusal(grpc.StatusCode.NOT_FOUND, "unknown_model", "no such model")
    response = pb.ModelStreamInferResponse.FromString(write_refusal(refusal, pb.ModelInferRequest(id=sent)))
    assert response.error_message == "no such model"
    assert response.infer_response == pb.ModelInferResponse(id=given_back)


def test_a_refusal_of_what_is_no_request_has_no_id() -> None:
    refusal = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "no message")
    response = pb.ModelStreamInferResponse.FromString(write_refusal(refusal, None))
    assert (response.error_message, response.infer_response.id) == ("no message", "")
