"""What every RPC has in common: its bytes are parsed here, its errors become statuses here."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from serve.errors import InvalidRequest
from serve.rpc.status import Refusal, refusal

# Of one stream, at a time. Enough to fill batches from a few streams, few enough to bound what one can hold.
STREAM_MESSAGES = 16

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

Request = TypeVar("Request", bound=Message)

Method: TypeAlias = Callable[[Request, Context], Awaitable[bytes]]
"""Answers one request with the serialised response, or raises one of `serve.errors`."""


def unary(method: Method[Request], request_type: type[Request]) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """A method as gRPC wants it.

    Requests are parsed in our own code: the generated handlers answer bytes that do not parse with UNKNOWN.
    """

    async def handle(message: bytes, context: Context) -> bytes:
        try:
            return await method(parse(request_type, message), context)
        except Exception as error:  # the call's outer edge: no text of ours may leak by accident
            refused = refusal(error)
            # gRPC keeps the exception that `abort` raises with the call, and a refused message must not be kept with
            # it: so no frame may hold one, and `abort` comes after this clause, whose exception it would refer to.
            traceback.clear_frames(error.__traceback__)
        del message
        await context.abort(refused.code, refused.details, refused.trailing_metadata)

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(
    method: Method[Request],
    request_type: type[Request],
    *,
    write_answer: Callable[[bytes], bytes],
    write_refusal: Callable[[Refusal, Request | None], bytes],
    ends_refused: Callable[[Context], bool] = lambda _: False,
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """A method for each message of a stream: several at a time, answered in order.

    Only so many are under way, and none is read before that: a caller that does not read its answers stops being read
    itself, by the flow control of HTTP/2.

    Args:
        method: Answers one message.
        request_type: What a message is parsed as.
        write_answer: Makes the stream's message of the method's response.
        write_refusal: Makes the stream's message of what the method raised, and of the request if it is one.
        ends_refused: Whether the first refusal is to end this stream, as its status.
    """

    async def answer(message: bytes, context: Context) -> bytes | Refusal:
        request = None
        try:
            request = parse(request_type, message)
            return write_answer(await method(request, context))
        except Exception as error:  # the message's outer edge, as the call's is above
            refused = refusal(error)
            return refused if ends_refused(context) else write_refusal(refused, request)

    async def answer_all(messages: AsyncIterator[bytes], context: Context) -> Refusal | None:
        under_way: asyncio.Queue[asyncio.Task[bytes | Refusal] | None] = asyncio.Queue()
        room = asyncio.Semaphore(STREAM_MESSAGES)

        async def read() -> None:
            await room.acquire()
            async for message in messages:
                under_way.put_nowait(tasks.create_task(answer(message, context)))
                await room.acquire()
            under_way.put_nowait(None)

        end: Refusal | None = None
        try:
            async with asyncio.TaskGroup() as tasks:  # a call that is cancelled, or ends, takes its messages along
                tasks.create_task(read())
                while (task := await under_way.get()) is not None:
                    answered = await task
                    if isinstance(answered, Refusal):
                        end = answered
                        raise _EndOfStream
                    await context.write(answered)
                    room.release()
        except* _EndOfStream:
            pass
        return end

    async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
        # The messages have gone by now, for gRPC would keep them as above.
        if (end := await answer_all(messages, context)) is not None:
            await context.abort(end.code, end.details, end.trailing_metadata)

    return grpc.stream_stream_rpc_method_handler(handle)


class _EndOfStream(Exception):
    """Takes a stream's messages down with it."""


def parse(request_type: type[Request], message: bytes) -> Request:
    """The message.

    Raises:
        InvalidRequest: The bytes are none.
    """
    try:
        return request_type.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(
            f"the {len(message)} bytes received are no {request_type.DESCRIPTOR.full_name}; check the client's protos"
        ) from error
