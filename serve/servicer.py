"""The RPCs of `digits.v1.DigitRecognizer`: parse, submit, format."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from protos.digits.v1 import digits_pb2
from serve.batcher import Batcher
from serve.errors import DeadlineExceeded, InvalidRequest, UnknownModel
from serve.status import refusal
from serve.wire import read_pixels, read_top_k, write_answer, write_refusal, write_streamed

SERVICE = digits_pb2.DESCRIPTOR.services_by_name["DigitRecognizer"].full_name

# Of one stream, at a time. Enough to fill batches from a few streams, few enough to bound what one can hold.
_STREAM_MESSAGES = 16

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_Request = TypeVar("_Request", bound=Message)


class DigitRecognizer:
    """Answers for one model; each method returns the serialised response.

    Args:
        model: The description that `GetModel` gives.
        batcher: Where images go.
        max_deadline_s: How long a call may take whose caller set no deadline, or a later one, in seconds.
    """

    def __init__(self, model: digits_pb2.Model, batcher: Batcher, *, max_deadline_s: float) -> None:
        self._model = model
        self._batcher = batcher
        self._max_deadline_s = max_deadline_s

    async def classify(self, request: digits_pb2.ClassifyRequest, context: Context) -> bytes:
        """See `Classify` in digits.proto."""
        model = self._find(request.model, request.version)
        top_k = read_top_k(request)
        pixels = read_pixels(request, max_images=model.max_images_per_request)
        try:
            # The caller's own deadline needs no clock of ours: gRPC cancels the call when it passes.
            async with asyncio.timeout(self._max_deadline_s):
                answer = await self._batcher.submit(pixels, deadline=time.monotonic() + self._seconds_left(context))
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {self._max_deadline_s:g} s, the most that is allowed") from None
        return write_answer(answer, model=model.name, version=model.version, top_k=top_k)

    async def get_model(self, request: digits_pb2.GetModelRequest, context: Context) -> bytes:
        """See `GetModel` in digits.proto."""
        return self._find(request.model, request.version).SerializeToString()

    def _find(self, name: str, version: str) -> digits_pb2.Model:
        if name not in ("", self._model.name):
            # Names are cut: an error travels in a header, whose size clients limit.
            raise UnknownModel(f"model {name!r:.80} is not served here; {self._model.name!r} is")
        if version not in ("", self._model.version):
            raise UnknownModel(
                f"version {version!r:.80} of {self._model.name!r} is not served here; {self._model.version!r} is"
            )
        return self._model

    def _seconds_left(self, context: Context) -> float:
        left = context.time_remaining()
        return self._max_deadline_s if left is None else min(left, self._max_deadline_s)


def handler(servicer: DigitRecognizer) -> grpc.GenericRpcHandler:
    """The servicer's methods as gRPC wants them.

    Requests are parsed in our own code: the generated handlers answer bytes that do not parse with UNKNOWN.
    """
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Classify": _unary(servicer.classify, digits_pb2.ClassifyRequest),
            "ClassifyStream": _stream(servicer.classify, digits_pb2.ClassifyRequest),
            "GetModel": _unary(servicer.get_model, digits_pb2.GetModelRequest),
        },
    )


def _unary(
    method: Callable[[_Request, Context], Awaitable[bytes]], request_type: type[_Request]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def handle(message: bytes, context: Context) -> bytes:
        try:
            return await method(_parse(request_type, message), context)
        except Exception as error:  # the call's outer edge: no text of ours may leak by accident
            refused = refusal(error)
            # gRPC keeps the exception that `abort` raises with the call, and a refused message must not be kept with
            # it: so no frame may hold one, and `abort` comes after this clause, whose exception it would refer to.
            traceback.clear_frames(error.__traceback__)
        del message
        await context.abort(refused.code, refused.details, refused.trailing_metadata)

    return grpc.unary_unary_rpc_method_handler(handle)


def _stream(
    method: Callable[[_Request, Context], Awaitable[bytes]], request_type: type[_Request]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """A unary method for each message of a stream: several at a time, answered in order.

    Only so many are under way, and none is read before that: a caller that does not read its answers stops being read
    itself, by the flow control of HTTP/2.
    """

    async def answer(message: bytes, context: Context) -> bytes:
        try:
            return write_streamed(await method(_parse(request_type, message), context))
        except Exception as error:  # the message's outer edge, as the call's is below
            return write_refusal(refusal(error))

    async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
        under_way: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_STREAM_MESSAGES)

        async def read() -> None:
            await room.acquire()
            async for message in messages:
                under_way.put_nowait(tasks.create_task(answer(message, context)))
                await room.acquire()
            under_way.put_nowait(None)

        async with asyncio.TaskGroup() as tasks:  # a call that is cancelled takes its messages along
            tasks.create_task(read())
            while (task := await under_way.get()) is not None:
                await context.write(await task)
                room.release()

    return grpc.stream_stream_rpc_method_handler(handle)


def _parse(request_type: type[_Request], message: bytes) -> _Request:
    try:
        return request_type.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(
            f"the {len(message)} bytes received are no {request_type.DESCRIPTOR.full_name}; check the client's protos"
        ) from error
