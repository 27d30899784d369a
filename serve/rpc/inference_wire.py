"""Between the Open Inference Protocol's messages and arrays: what is checked on the way in, how answers are written."""

import struct
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from bundle import manifest
from protos.inference import inference_pb2
from serve.batcher import Answer, Counts
from serve.engines import CLASSES, IMAGE_BYTES, IMAGE_SHAPE, Pixels, Probabilities
from serve.errors import InvalidRequest
from serve.model import Description, Model
from serve.rpc.encoding import embedded
from serve.rpc.status import Refusal

INPUT, OUTPUT = manifest.INPUT.name, manifest.OUTPUT.name

# The protocol's "project_format", by the project's name.
# What Triton calls what runs a model.
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "tensorrt-rtx": "tensorrt_plan"}

_ID_CHARACTERS = 256

# A few bytes each on the wire, a hundred and more in memory for as long as the request waits.
_PARAMETERS = 64

Tensor: TypeAlias = inference_pb2.ModelInferRequest.InferInputTensor
Parameters: TypeAlias = Mapping[str, inference_pb2.InferParameter]


def read_id(request: inference_pb2.ModelInferRequest) -> str:
    """What the caller wants back with the answer.

    Raises:
        InvalidRequest: It is too long to be carried along.
    """
    if len(request.id) > _ID_CHARACTERS:
        raise InvalidRequest(f"id has {len(request.id)} characters; at most {_ID_CHARACTERS} were expected")
    return request.id


def read_timeout_s(request: inference_pb2.ModelInferRequest, deadline_s: float | None) -> float | None:
    """Seconds until the caller has no use for the answer: its parameter `timeout` or its deadline, None without both.

    Args:
        request: The request.
        deadline_s: Seconds until the call's deadline, None without one.

    Raises:
        InvalidRequest: The parameter is no number of microseconds, or there are too many parameters.
    """
    if not request.parameters:
        return deadline_s
    _check_number(request.parameters, "the request")
    if "timeout" not in request.parameters or not (timeout_us := _whole_number(request.parameters, "timeout")):
        return deadline_s
    return timeout_us / 1e6 if deadline_s is None else min(timeout_us / 1e6, deadline_s)


def read_classes(request: inference_pb2.ModelInferRequest) -> int:
    """How many of the most probable classes the caller wants instead of the probabilities; 0 means those.

    Raises:
        InvalidRequest: Another output is requested, or one in shared memory, or no number of classes.
    """
    if not request.outputs:
        return 0
    output = request.outputs[0]
    if len(request.outputs) > 1:
        raise InvalidRequest(f"{len(request.outputs)} outputs are requested; {OUTPUT!r} is the only one, name it once")
    if output.name != OUTPUT:
        raise InvalidRequest(f"output {output.name!r:.80} is requested; {OUTPUT!r} is the only one")
    if not output.parameters:
        return 0
    _check_tensor(output.parameters, f"output {OUTPUT!r}")
    if "classification" not in output.parameters:
        return 0
    if not (classes := _whole_number(output.parameters, "classification")):
        raise InvalidRequest(f"parameter 'classification' is 0; 1 to {CLASSES} was expected")
    # As Triton does: who wants more than there are gets all.
    return min(classes, CLASSES)


def read_pixels(request: inference_pb2.ModelInferRequest, *, max_images: int) -> Pixels:
    """The request's images, uint8 [N, 1, 28, 28].

    Raises:
        InvalidRequest: What is sent is not one tensor of 1 to `max_images` images, or not all of it.
    """
    if len(request.inputs) != 1:
        raise InvalidRequest(f"{len(request.inputs)} inputs are sent; one was expected, {INPUT!r}")
    tensor = request.inputs[0]
    if tensor.name != INPUT:
        raise InvalidRequest(f"input {tensor.name!r:.80} is sent; {INPUT!r} was expected")
    if tensor.datatype != "UINT8":
        raise InvalidRequest(
            f"input {INPUT!r} has datatype {tensor.datatype!r:.20}; 'UINT8' was expected: "
            "0 to 255, white ink on black, not scaled"
        )
    if tensor.parameters:
        _check_tensor(tensor.parameters, f"input {INPUT!r}")
    images = _read_images(tensor, max_images)
    content = _read_content(request, tensor, images * IMAGE_BYTES)
    return np.frombuffer(content, np.uint8).reshape(images, *IMAGE_SHAPE)


def write_answer(answer: Answer, model: Description, *, classes: int, request_id: str) -> bytes:
    """The serialised `ModelInferResponse` that carries `answer`: probabilities, or so many classes."""
    probabilities = answer.probabilities
    response = inference_pb2.ModelInferResponse(model_name=model.name, model_version=model.version, id=request_id)
    if classes:
        response.outputs.add(name=OUTPUT, datatype="BYTES", shape=(len(probabilities), classes))
        response.raw_output_contents.append(_classification(probabilities, model.labels, classes))
    else:
        response.outputs.add(name=OUTPUT, datatype="FP32", shape=probabilities.shape)
        response.raw_output_contents.append(probabilities.astype("<f4", copy=False).tobytes())
    return response.SerializeToString()


def write_streamed(answer: bytes) -> bytes:
    """The serialised `ModelStreamInferResponse` around a serialised `ModelInferResponse`."""
    return embedded(inference_pb2.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER, answer)


def write_refusal(refusal: Refusal, request: inference_pb2.ModelInferRequest | None) -> bytes:
    """The serialised `ModelStreamInferResponse` of a request that is not answered."""
    response = inference_pb2.ModelStreamInferResponse(error_message=refusal.details)
    response.infer_response.id = request.id[:_ID_CHARACTERS] if request else ""
    return response.SerializeToString()


def write_metadata(model: Description, versions: list[str]) -> bytes:
    """The serialised `ModelMetadataResponse` that describes `model`."""
    response = inference_pb2.ModelMetadataResponse(name=model.name, versions=versions, platform=_platform(model))
    response.inputs.add(name=INPUT, datatype="UINT8", shape=(-1, *IMAGE_SHAPE))
    response.outputs.add(name=OUTPUT, datatype="FP32", shape=(-1, CLASSES))
    return response.SerializeToString()


def write_config(model: Description) -> bytes:
    """The serialised `ModelConfigResponse` that describes `model`."""
    config = inference_pb2.ModelConfig(
        name=model.name,
        platform=_platform(model),
        backend=model.engine,
        max_batch_size=model.max_images_per_request,
        dynamic_batching=inference_pb2.ModelDynamicBatching(preferred_batch_size=[model.max_batch]),
    )
    config.input.add(
        name=INPUT,
        data_type=inference_pb2.TYPE_UINT8,
        format=inference_pb2.ModelInput.FORMAT_NCHW,
        dims=IMAGE_SHAPE,
    )
    config.output.add(name=OUTPUT, data_type=inference_pb2.TYPE_FP32, dims=[CLASSES])
    properties = {
        "labels": ",".join(model.labels),
        "architecture": model.architecture,
        "device": model.device,
        "precision": model.precision,
        "sha256": model.sha256,
        "accuracy": f"{model.accuracy:g}",
    }
    for name, value in properties.items():
        config.parameters[name].string_value = value
    return inference_pb2.ModelConfigResponse(config=config).SerializeToString()


def write_statistics(models: Iterable[tuple[Description, Counts]]) -> bytes:
    """The serialised `ModelStatisticsResponse` of some models."""
    statistics = [_statistics(model, counts) for model, counts in models]
    return inference_pb2.ModelStatisticsResponse(model_stats=statistics).SerializeToString()


def write_index(models: Iterable[Model]) -> bytes:
    """The serialised `RepositoryIndexResponse` that lists some models."""
    response = inference_pb2.RepositoryIndexResponse()
    for model in models:
        refusal = model.refusal
        response.models.add(
            name=model.description.name,
            version=model.description.version,
            state="UNAVAILABLE" if refusal else "READY",
            reason=refusal,
        )
    return response.SerializeToString()


def _read_images(tensor: Tensor, max_images: int) -> int:
    shape = tensor.shape
    if len(shape) != 4 or tuple(shape[1:]) != IMAGE_SHAPE or shape[0] < 1:
        # Cut, because a shape can be as long as a message.
        received = f"{list(shape[:8])}{' and more' if len(shape) > 8 else ''}"
        raise InvalidRequest(
            f"input {INPUT!r} has shape {received}; [N, 1, 28, 28] was expected, N from 1 to {max_images}"
        )
    if shape[0] > max_images:
        raise InvalidRequest(
            f"input {INPUT!r} has {shape[0]} images; at most {max_images} are accepted in one request; "
            "send several requests"
        )
    return shape[0]


def _read_content(request: inference_pb2.ModelInferRequest, tensor: Tensor, size: int) -> bytes:
    """The tensor's bytes, so many, from wherever the caller has put them."""
    raw = request.raw_input_contents
    if tensor.HasField("contents"):
        if raw:
            raise InvalidRequest(
                f"input {INPUT!r} is sent twice, in contents and in raw_input_contents; one of them was expected"
            )
        return _read_typed(tensor.contents, size)
    if len(raw) != 1:
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries and input {INPUT!r} no contents; one entry was expected"
        )
    content = raw[0]
    _check_size(len(content), size)
    return content


def _read_typed(contents: inference_pb2.InferTensorContents, size: int) -> bytes:
    for field, _ in contents.ListFields():
        if field.name != "uint_contents":
            raise InvalidRequest(f"input {INPUT!r} is sent as {field.name}; uint_contents was expected for UINT8")
    _check_size(len(contents.uint_contents), size)
    try:
        return bytes(contents.uint_contents)
    except ValueError:
        raise InvalidRequest(
            f"input {INPUT!r} has an element {max(contents.uint_contents)}; 0 to 255 was expected"
        ) from None


def _check_size(received: int, size: int) -> None:
    if received != size:
        raise InvalidRequest(
            f"input {INPUT!r} has {received} bytes; its shape has {size // IMAGE_BYTES} x {IMAGE_BYTES} = {size}"
        )


def _check_number(parameters: Parameters, where: str) -> None:
    if len(parameters) > _PARAMETERS:
        raise InvalidRequest(f"{where} has {len(parameters)} parameters; at most {_PARAMETERS} were expected")


def _check_tensor(parameters: Parameters, where: str) -> None:
    _check_number(parameters, where)
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{where} is said to be in shared memory, which this server has none of; send the bytes")


def _whole_number(parameters: Parameters, name: str) -> int:
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidRequest(f"parameter {name!r} is sent as {kind}; int64_param was expected")
    number: int = getattr(parameter, kind)
    if number < 0:
        raise InvalidRequest(f"parameter {name!r} is {number}; 0 or more was expected")
    return number


def _classification(probabilities: Probabilities, labels: list[str], classes: int) -> bytes:
    """The most probable classes of each image, as Triton writes them: each after its length in four bytes."""
    # Stable, so that of equal probabilities the smaller digit comes first.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :classes]
    parts = []
    for row, indices in zip(probabilities.tolist(), order.tolist(), strict=True):
        for index in indices:
            text = f"{row[index]:f}:{index}:{labels[index]}".encode()
            parts += [struct.pack("<I", len(text)), text]
    return b"".join(parts)


def _statistics(model: Description, counts: Counts) -> inference_pb2.ModelStatistics:
    def duration(count: int, seconds: float) -> inference_pb2.StatisticDuration:
        return inference_pb2.StatisticDuration(count=count, ns=round(seconds * 1e9))

    answered = counts.answered
    return inference_pb2.ModelStatistics(
        name=model.name,
        version=model.version,
        inference_count=counts.images,
        execution_count=counts.executions,
        inference_stats=inference_pb2.InferStatistics(
            success=duration(answered, counts.queue_s + counts.input_s + counts.infer_s + counts.output_s),
            fail=duration(counts.refused + counts.expired + counts.cancelled + counts.failed, counts.unanswered_s),
            queue=duration(answered, counts.queue_s),
            compute_input=duration(answered, counts.input_s),
            compute_infer=duration(answered, counts.infer_s),
            compute_output=duration(answered, counts.output_s),
        ),
    )


def _platform(model: Description) -> str:
    return _PLATFORMS.get(model.engine, model.engine)
