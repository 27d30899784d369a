"""Between arrays and messages. Shared by the sync and the async client."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from clients.answers import Candidate, Classification, ModelInfo, Prediction
from clients.calls import Call
from clients.coalesce import IMAGE_BYTES, Kind, Part
from clients.errors import DigitError, InvalidImages
from imaging import Box
from protos.digits.v1 import digits_pb2, doubts

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

# What a server takes in one request unless it was told otherwise.
MOST_IMAGES = 1024


def to_request(images: npt.ArrayLike, *, model: str, version: str, top_k: int) -> digits_pb2.ClassifyRequest:
    """The request for one or many images.

    Raises:
        InvalidImages: The array is not uint8, or no shape of 28 x 28 images; `top_k` is not 0 to 10.
    """
    if not 0 <= top_k <= 10:
        raise InvalidImages(f"top_k is {top_k}; 0 to 10 was expected")
    try:
        pixels = np.asarray(images)
    except ValueError as error:
        raise InvalidImages(f"images are no array ({error}); [N, 28, 28] of uint8 was expected") from error
    if pixels.dtype != np.uint8:
        raise InvalidImages(f"images are {pixels.dtype}; uint8 was expected: 0 is paper (black), 255 full ink (white)")
    if pixels.shape[-2:] != (28, 28) or pixels.ndim > 4 or (pixels.ndim == 4 and pixels.shape[1] != 1):
        raise InvalidImages(f"images have shape {pixels.shape}; [28, 28], [N, 28, 28] or [N, 1, 28, 28] was expected")
    if not pixels.size:
        raise InvalidImages(f"images have shape {pixels.shape}; at least one image was expected")
    return digits_pb2.ClassifyRequest(model=model, version=version, pixels=pixels.tobytes(), top_k=top_k)


def count(request: digits_pb2.ClassifyRequest) -> int:
    """How many images it has."""
    return len(request.pixels) // IMAGE_BYTES


def split(request: digits_pb2.ClassifyRequest) -> list[digits_pb2.ClassifyRequest]:
    """The request in pieces that servers take."""
    if count(request) <= MOST_IMAGES:
        return [request]
    pixels, most = request.pixels, MOST_IMAGES * IMAGE_BYTES
    return [
        digits_pb2.ClassifyRequest(
            model=request.model, version=request.version, top_k=request.top_k, pixels=pixels[start : start + most]
        )
        for start in range(0, len(pixels), most)
    ]


def join(answers: Sequence[Classification]) -> Classification:
    """The answer to a request that was sent in pieces."""
    if len(answers) == 1:
        return answers[0]
    return Classification(
        predictions=tuple(itertools.chain.from_iterable(each.predictions for each in answers)),
        model=_all_of(each.model for each in answers),
        version=_all_of(each.version for each in answers),
        queue_s=sum(each.queue_s for each in answers),
        compute_s=sum(each.compute_s for each in answers),
        batch_size=max(each.batch_size for each in answers),
    )


def _all_of(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def to_part(
    request: digits_pb2.ClassifyRequest,
    deadline: float,
    answer: "Future[Classification] | asyncio.Future[Classification]",
) -> Part:
    """The request as a part of a larger one."""
    kind = Kind(request.model, request.version, request.top_k)
    return Part(kind=kind, pixels=request.pixels, deadline=deadline, answer=answer)


def to_shared(parts: Sequence[Part]) -> digits_pb2.ClassifyRequest:
    """The request of all of them."""
    model, version, top_k = parts[0].kind
    pixels = b"".join(part.pixels for part in parts)
    return digits_pb2.ClassifyRequest(model=model, version=version, top_k=top_k, pixels=pixels)


def to_picture_request(
    pictures: Sequence[bytes], *, many: bool, return_pixels: bool, model: str, version: str, top_k: int
) -> digits_pb2.ClassifyRequest:
    """The request for encoded pictures.

    Raises:
        InvalidImages: There are none, or other things; `top_k` is not 0 to 10.
    """
    if not 0 <= top_k <= 10:
        raise InvalidImages(f"top_k is {top_k}; 0 to 10 was expected")
    if not pictures or not all(isinstance(each, bytes) for each in pictures):
        raise InvalidImages("a sequence of at least one picture, each the bytes of a file, was expected")
    return digits_pb2.ClassifyRequest(
        model=model,
        version=version,
        encoded_images=pictures,
        many=many,
        return_pixels=return_pixels,
        top_k=top_k,
    )


def from_response(response: digits_pb2.ClassifyResponse) -> Classification:
    """The answer in plain values."""
    return Classification(
        predictions=tuple(_prediction(each) for each in response.predictions),
        model=response.model,
        version=response.version,
        queue_s=response.queue_us / 1e6,
        compute_s=response.compute_us / 1e6,
        batch_size=response.batch_size,
    )


def from_streamed(call: Call, response: digits_pb2.ClassifyStreamResponse) -> Classification | DigitError:
    """The answer in a stream in plain values, or the exception that `classify` would have raised."""
    if response.WhichOneof("result") == "response":
        return from_response(response.response)
    refusal = response.refusal
    code = next((each for each in grpc.StatusCode if each.value[0] == refusal.code), grpc.StatusCode.UNKNOWN)
    return call.error(code, refusal.message)


def from_model(model: digits_pb2.Model) -> ModelInfo:
    """The model's description in plain values."""
    return ModelInfo(
        name=model.name,
        version=model.version,
        architecture=model.architecture,
        labels=tuple(model.labels),
        engine=model.engine,
        device=model.device,
        precision=model.precision,
        max_batch_size=model.max_batch_size,
        max_images_per_request=model.max_images_per_request,
        sha256=model.sha256,
        accuracy=model.accuracy,
        last_load_error=model.last_load_error,
    )


def _prediction(message: digits_pb2.Prediction) -> Prediction:
    probabilities = np.array(message.probabilities, np.float32)
    return Prediction(
        digit=message.digit,
        probabilities=probabilities,
        top=tuple(Candidate(digit=each.digit, probability=each.probability) for each in message.top),
        image=message.image,
        box=_box(message.box) if message.HasField("box") else None,
        # Of pictures the server has said it with the rest.
        warnings=tuple(message.warnings) if message.HasField("box") else doubts(float(probabilities[message.digit])),
        pixels=np.frombuffer(message.pixels, np.uint8).reshape(28, 28) if message.pixels else None,
    )


def _box(message: digits_pb2.Box) -> Box:
    return Box(left=message.left, top=message.top, width=message.width, height=message.height)
