"""The two protocols: what a request is made of, and what an answer tells.

A request is serialised once and sent as it is; an answer is not parsed, but for some of them, to learn from the server
where the time went.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import numpy as np

from clients import access
from clients.access import Tls
from clients.channel import open_channel
from clients.errors import DigitError, from_status
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc

Protocol = Literal["digits", "inference"]

_PATHS = {
    ("digits", False): "/digits.v1.DigitRecognizer/Classify",
    ("digits", True): "/digits.v1.DigitRecognizer/ClassifyStream",
    ("inference", False): "/inference.GRPCInferenceService/ModelInfer",
    ("inference", True): "/inference.GRPCInferenceService/ModelStreamInfer",
}

_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8", "INT8": "i1", "INT16": "i2",
    "INT32": "i4", "INT64": "i8", "FP16": "f2", "FP32": "f4", "FP64": "f8",
}  # fmt: skip

# In a message of a stream the first byte is the tag of its first field, and says whether it is an answer.
_DIGITS_ANSWER, _INFERENCE_ERROR = 0x0A, 0x0A

_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A method of a server and the message for it.

    Attributes:
        protocol: Which of the two.
        path: The method's.
        request: The message.
        answer: What the server answered to it.
        server: What the server says about the model, for the document.
    """

    protocol: Protocol
    path: str
    request: bytes
    answer: bytes
    server: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where the server says that the time of a request went."""

    queue_s: float
    compute_s: float
    batch: int


def split(protocol: Protocol, answer: bytes, *, streams: bool) -> Split | None:
    """What an answer tells, if its protocol has words for it."""
    if protocol != "digits":
        return None
    response = (
        digits_pb2.ClassifyStreamResponse.FromString(answer).response
        if streams
        else digits_pb2.ClassifyResponse.FromString(answer)
    )
    return Split(queue_s=response.queue_us / 1e6, compute_s=response.compute_us / 1e6, batch=response.batch_size)


def refusal(protocol: Protocol, message: bytes) -> str | None:
    """The status of a request that was refused within a stream, by name; None if it was answered."""
    if protocol == "digits":
        if message[:1] == bytes([_DIGITS_ANSWER]):
            return None
        code = digits_pb2.ClassifyStreamResponse.FromString(message).refusal.code
        return next((each.name for each in grpc.StatusCode if each.value[0] == code), "UNKNOWN")
    if message[:1] != bytes([_INFERENCE_ERROR]):
        return None
    # The protocol has no codes here, only words for people.
    return "error message"


def find_target(
    address: str, protocol: Protocol, *, model: str, images: int, streams: bool, seed: int, tls: Tls | None,
    token: str | None,
) -> Target:  # fmt: skip
    """Asks the server about the model, makes the message, and sends it once, so that later failures are of the load.

    Raises:
        DigitError: There is no such server or model, or it refuses the message.
    """
    metadata = access.metadata(token)
    make = _digits if protocol == "digits" else _inference
    with open_channel(address, tls, retry=False) as channel:
        try:
            request, server = make(channel, metadata, model, images, seed)
            path = _PATHS[protocol, False]
            call: Any = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
            answer = call(request, timeout=_PROBE_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                other = "inference" if protocol == "digits" else "digits"
                raise DigitError(
                    f"{address}: this server does not speak the protocol {protocol!r}; try --protocol {other}"
                ) from error
            raise from_status(address, error.code(), error.details()) from error
    return Target(
        protocol=protocol,
        path=_PATHS[protocol, streams],
        request=request,
        answer=_streamed(protocol, answer) if streams else answer,
        server=server,
    )


def _digits(
    channel: grpc.Channel, metadata: Sequence[tuple[str, str]], model: str, images: int, seed: int
) -> tuple[bytes, dict[str, Any]]:
    stub = digits_pb2_grpc.DigitRecognizerStub(channel)
    info = stub.GetModel(digits_pb2.GetModelRequest(model=model), timeout=_PROBE_TIMEOUT_S, metadata=metadata)
    if images > info.max_images_per_request:
        raise DigitError(
            f"--images is {images}; this server accepts at most {info.max_images_per_request} in a request"
        )
    pixels = np.random.default_rng(seed).integers(0, 256, images * 784, dtype=np.uint8).tobytes()
    names = ("name", "version", "architecture", "engine", "device", "precision", "max_batch_size", "sha256", "accuracy")
    server = {name: getattr(info, name) for name in names}
    return digits_pb2.ClassifyRequest(model=model, pixels=pixels).SerializeToString(), server


def _inference(
    channel: grpc.Channel, metadata: Sequence[tuple[str, str]], model: str, images: int, seed: int
) -> tuple[bytes, dict[str, Any]]:
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    asked = inference_pb2.ModelMetadataRequest(name=model)
    info = stub.ModelMetadata(asked, timeout=_PROBE_TIMEOUT_S, metadata=metadata)
    request = inference_pb2.ModelInferRequest(model_name=model)
    random = np.random.default_rng(seed)
    for tensor in info.inputs:
        shape = _shape(tensor.name, list(tensor.shape), images)
        if tensor.datatype not in _TYPES:
            raise DigitError(f"input {tensor.name!r} is {tensor.datatype}; one of {', '.join(_TYPES)} was expected")
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(_content(random, tensor.datatype, math.prod(shape)))
    server = {"name": info.name, "version": ", ".join(info.versions), "platform": info.platform}
    return request.SerializeToString(), server


def _shape(name: str, shape: list[int], images: int) -> list[int]:
    """A shape without the -1 that stands for any number: the first is that of the images."""
    if shape[:1] == [-1]:
        shape = [images, *shape[1:]]
    elif images != 1:
        raise DigitError(f"--images is {images}; input {name!r} has shape {shape}, which takes one request at a time")
    return [1 if size == -1 else size for size in shape]


def _content(random: np.random.Generator, datatype: str, elements: int) -> bytes:
    kind = np.dtype(_TYPES[datatype])
    if kind.kind == "f":
        return random.random(elements).astype(kind).tobytes()
    most = 2 if kind.kind == "b" else 128 if kind == np.int8 else 256
    return random.integers(0, most, elements).astype(kind).tobytes()


def _streamed(protocol: Protocol, answer: bytes) -> bytes:
    """The answer as it comes within a stream."""
    if protocol == "digits":
        response = digits_pb2.ClassifyResponse.FromString(answer)
        return digits_pb2.ClassifyStreamResponse(response=response).SerializeToString()
    infer_response = inference_pb2.ModelInferResponse.FromString(answer)
    return inference_pb2.ModelStreamInferResponse(infer_response=infer_response).SerializeToString()


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The server's own account of a model since its start, by the Open Inference Protocol's ModelStatistics."""

    requests: int
    images: int
    executions: int
    queue_s: float
    compute_s: float


def read_statistics(address: str, model: str, *, tls: Tls | None, token: str | None) -> Statistics | None:
    """The account of one model; None from a server that keeps none."""
    request = inference_pb2.ModelStatisticsRequest(name=model)
    with open_channel(address, tls, retry=False) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            answer = stub.ModelStatistics(request, timeout=_PROBE_TIMEOUT_S, metadata=access.metadata(token))
        except grpc.RpcError:
            return None
    each = [(one, one.inference_stats) for one in answer.model_stats]
    return Statistics(
        requests=sum(stats.success.count for _, stats in each),
        images=sum(one.inference_count for one, _ in each),
        executions=sum(one.execution_count for one, _ in each),
        queue_s=sum(stats.queue.ns for _, stats in each) / 1e9,
        compute_s=sum(stats.compute_infer.ns for _, stats in each) / 1e9,
    )
