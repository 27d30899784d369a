"""The RPCs of `digits.v1.DigitRecognizer`: parse, classify, format."""

import grpc

from protos.digits.v1 import digits_pb2
from serve.model import Model
from serve.models import Models
from serve.rpc.calls import Call, Observers, service, stream, unary
from serve.rpc.digits_wire import read_pixels, read_top_k, write_answer, write_model, write_refusal, write_streamed

SERVICE = digits_pb2.DESCRIPTOR.services_by_name["DigitRecognizer"].full_name


class DigitRecognizer:
    """Each method returns the serialised response.

    Args:
        models: What answers.
    """

    def __init__(self, models: Models[Model]) -> None:
        self._models = models

    async def classify(self, request: digits_pb2.ClassifyRequest, call: Call) -> bytes:
        """See `Classify` in digits.proto."""
        model = self._models.find(request.model, request.version)
        call.model = model.description
        top_k = read_top_k(request)
        pixels = read_pixels(request, max_images=model.description.max_images_per_request)
        call.images = len(pixels)
        call.answer = await model.classify(pixels, timeout_s=call.time_remaining())
        return write_answer(call.answer, model.description, top_k=top_k)

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
