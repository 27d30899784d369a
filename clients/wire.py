"""Between arrays and messages, and what a channel needs to know. Shared by the sync and the async client."""

import json
import math
from typing import TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from clients.answers import Candidate, Classification, ModelInfo, Prediction
from clients.errors import DigitError, InvalidImages, from_status
from protos.digits.v1 import digits_pb2

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

# Classify and GetModel change nothing on the server, so a call that was not answered can be sent again. The server
# says with `grpc-retry-pushback-ms` when, if it is busy; gRPC obeys that by itself. A deadline is never retried.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": digits_pb2.DESCRIPTOR.services_by_name["DigitRecognizer"].full_name}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # CANCELLED is what gRPC tells calls that arrive in the very moment in which a server closes.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    # When more than half of the calls fail, retrying stops: it would only add to the load.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}

CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A request that does not fit into this buffer is sent once only; gRPC's default holds 334 images.
    ("grpc.per_rpc_retry_buffer_size", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
]


def check_timeout(timeout_s: float) -> float:
    """`timeout_s` itself: every call has a deadline.

    Raises:
        InvalidImages: It is no time that can pass.
    """
    if not 0 < timeout_s < math.inf:
        raise InvalidImages(f"timeout_s is {timeout_s}; a finite number of seconds above 0 was expected")
    return timeout_s


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


def from_streamed(address: str, response: digits_pb2.ClassifyStreamResponse) -> Classification | DigitError:
    """The answer in a stream in plain values, or the exception that `classify` would have raised."""
    if response.WhichOneof("result") == "response":
        return from_response(response.response)
    refusal = response.refusal
    code = next((each for each in grpc.StatusCode if each.value[0] == refusal.code), grpc.StatusCode.UNKNOWN)
    return from_status(address, code, refusal.message)


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
    return Prediction(
        digit=message.digit,
        probabilities=np.array(message.probabilities, np.float32),
        top=tuple(Candidate(digit=each.digit, probability=each.probability) for each in message.top),
    )
