"""The RPCs of `digits.v1.DigitRecognizer`: parse, classify, format."""

import grpc
import numpy as np

from protos.digits.v1 import digits_pb2
from serve.batcher import Answer
from serve.engines import CLASSES
from serve.model import Model
from serve.models import Models
from serve.pictures import Pictures
from serve.rpc.calls import Call, Observers, service, stream, unary
from serve.rpc.digits_wire import (
    read_pictures,
    read_pixels,
    read_top_k,
    stack_pixels,
    write_answer,
    write_found,
    write_model,
    write_refusal,
    write_streamed,
)

SERVICE = digits_pb2.DESCRIPTOR.services_by_name["DigitRecognizer"].full_name

_NOTHING = Answer(probabilities=np.empty((0, CLASSES), np.float32), queue_s=0.0, compute_s=0.0, batch_size=0)


class DigitRecognizer:
    """Each method returns the serialised response.

    Args:
        models: What answers.
        pictures: Reads pictures.
    """

    def __init__(self, models: Models[Model], pictures: Pictures) -> None:
        self._models = models
        self._pictures = pictures

    async def classify(self, request: digits_pb2.ClassifyRequest, call: Call) -> bytes:
        """See `Classify` in digits.proto."""
        model = self._models.find(request.model, request.version)
        call.model = model.description
        top_k = read_top_k(request)
        if request.encoded_images:
            return await self._classify_pictures(request, call, top_k)
        pixels = read_pixels(request, max_images=model.description.max_images_per_request)
        call.images = len(pixels)
        call.answer = await model.classify(pixels, timeout_s=call.time_remaining())
        return write_answer(call.answer, model.description, top_k=top_k)

    async def _classify_pictures(self, request: digits_pb2.ClassifyRequest, call: Call, top_k: int) -> bytes:
        limits = self._pictures
        pictures = read_pictures(request, max_pictures=limits.max_per_request, max_bytes=limits.max_bytes)
        found = await limits.read(pictures, many=request.many, timeout_s=call.time_remaining())
        # Another version may have taken the model's place meanwhile: only who is found in the turn in which the images
        # are submitted is sure to accept them.
        model = self._models.find(request.model, request.version)
        call.model = model.description
        pixels = stack_pixels(found, max_images=model.description.max_images_per_request)
        call.images = len(pixels)
        remaining_s, left_s = call.time_remaining(), limits.max_deadline_s - call.elapsed_s()
        timeout_s = left_s if remaining_s is None else min(remaining_s, left_s)
        call.answer = await model.classify(pixels, timeout_s=timeout_s) if found else _NOTHING
        return write_found(call.answer, found, call.model, top_k=top_k, return_pixels=request.return_pixels)

    async def get_model(self, request: digits_pb2.GetModelRequest, call: Call) -> bytes:
        """See `GetModel` in digits.proto."""
        call.model = self._models.find(request.model, request.version).description
        return write_model(call.model, self._models.loads[call.model.name].last_error)


def handler(servicer: DigitRecognizer, observers: Observers) -> grpc.GenericRpcHandler:
    """The servicer's methods as gRPC wants them."""
    return service(
        SERVICE,
        {
            "Classify": unary(servicer.classify, digits_pb2.ClassifyRequest),
            "ClassifyStream": stream(
                servicer.classify,
                digits_pb2.ClassifyRequest,
                write_answer=write_streamed,
                write_refusal=write_refusal,
            ),
            "GetModel": unary(servicer.get_model, digits_pb2.GetModelRequest),
        },
        observers,
    )
