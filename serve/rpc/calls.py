"""What every request has in common: its bytes are parsed, its errors become statuses, its end is observed."""

import asyncio
import re
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from serve.batcher import Answer
from serve.errors import InvalidRequest
from serve.model import Description
from serve.rpc.status import Refusal, refusal

# Of one stream, at a time. Enough to fill batches from a few streams, few enough to bound what one can hold.
STREAM_MESSAGES = 16

# What callers may name a request: it goes to the log and back to them.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Call:
    """One request on its way: a unary RPC, or a message of a stream. Methods write down here what they learn of it.

    Attributes:
        method: "package.Service/Method".
        model: What answers, once it is found.
        images: How many, once they are read.
        answer: What the batcher gave.
        code: How it ended, the name of gRPC's status.
        reason: Why it was refused, in a word; empty if it was not.
        seconds: From the message's arrival until its response was ready.
    """

    __slots__ = (
        *("_context", "_request_id", "_started"),
        *("answer", "code", "images", "method", "model", "reason", "seconds"),
    )

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.model: Description | None = None
        self.images = 0
        self.answer: Answer | None = None
        self.code = "OK"
        self.reason = ""
        self.seconds = 0.0
        self._context = context
        self._request_id = ""
        self._started = time.perf_counter()

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if there is none."""
        return self._context.time_remaining()

    def elapsed_s(self) -> float:
        """Seconds since the message was there."""
        return time.perf_counter() - self._started

    def metadata(self, key: str) -> str | None:
        """What the caller sent under a key that is not binary; the first if it did several times."""
        for name, value in self._context.invocation_metadata() or ():
            if name == key:
                return str(value)
        return None

    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""
        return self._context.peer()

    def request_id(self) -> str:
        """The caller's `x-request-id` if it is a decent one, else one of our own."""
        if not self._request_id:
            given = self.metadata("x-request-id") or ""
            self._request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return self._request_id

    def end(self, observers: "Observers", code: str = "OK", reason: str = "") -> None:
        """It is over; whoever observes calls is told."""
        self.seconds = self.elapsed_s()
        self.code = code
        self.reason = reason
        for observe in observers:
            observe(self)

    def leave(self, observers: "Observers") -> None:
        """The call was cancelled: its caller has left, or its deadline has passed."""
        remaining_s = self.time_remaining()
        # At the deadline the caller itself cancels, a little before ours, which has had the way here added to it and
        # has been rounded up by a hundredth.
        if remaining_s is not None and remaining_s <= 0.01 * (1 + self.elapsed_s()):
            self.end(observers, "DEADLINE_EXCEEDED", "deadline_exceeded")
        else:
            self.end(observers, "CANCELLED")


Observers: TypeAlias = Sequence[Callable[[Call], None]]
"""Each is called once with every request that has ended, however it did. They run on the event loop: they are quick."""

Request = TypeVar("Request", bound=Message)

Method: TypeAlias = Callable[[Request, Call], Awaitable[bytes]]
"""Answers one request with the serialised response, or raises one of `serve.errors`."""


Rpc: TypeAlias = "Callable[[str, Observers], grpc.RpcMethodHandler[bytes, bytes]]"
"""A method as gRPC wants it, once its name, "package.Service/Method", and who observes it are known."""


def service(name: str, methods: Mapping[str, Rpc], observers: Observers) -> grpc.GenericRpcHandler:
    """A service as gRPC wants it.

    Args:
        name: "package.Service".
        methods: By their names.
        observers: Are told of every request.
    """
    handlers = {method: rpc(f"{name}/{method}", observers) for method, rpc in methods.items()}
    return grpc.method_handlers_generic_handler(name, handlers)


def unary(method: Method[Request], request_type: type[Request]) -> Rpc:
    """A method that answers one request."""

    def rpc(name: str, observers: Observers) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def handle(message: bytes, context: Context) -> bytes:
            outcome = await _answer(method, request_type, message, Call(name, context), observers, _as_status)
            if isinstance(outcome, bytes):
                return outcome
            # gRPC keeps the exception that `abort` raises with the call; a refused message must not be kept with it.
            del message
            await context.abort(outcome.code, outcome.details, outcome.trailing_metadata)

        return grpc.unary_unary_rpc_method_handler(handle)

    return rpc


def stream(
    method: Method[Request],
    request_type: type[Request],
    *,
    write_answer: Callable[[bytes], bytes],
    write_refusal: Callable[[Refusal, Request | None], bytes],
    ends_refused: Callable[[Context], bool] = lambda _: False,
) -> Rpc:
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

    async def answer(request: Request, call: Call) -> bytes:
        return write_answer(await method(request, call))

    async def answer_all(
        messages: AsyncIterator[bytes], context: Context, name: str, observers: Observers
    ) -> Refusal | None:
        refuse = _as_status if ends_refused(context) else write_refusal
        under_way: asyncio.Queue[asyncio.Task[bytes | Refusal] | None] = asyncio.Queue()
        room = asyncio.Semaphore(STREAM_MESSAGES)

        async def read() -> None:
            await room.acquire()
            async for message in messages:
                outcome = _answer(answer, request_type, message, Call(name, context), observers, refuse)
                under_way.put_nowait(tasks.create_task(outcome))
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

    def rpc(name: str, observers: Observers) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            # The messages have gone by now, for gRPC would keep them as above.
            if (end := await answer_all(messages, context, name, observers)) is not None:
                await context.abort(end.code, end.details, end.trailing_metadata)

        return grpc.stream_stream_rpc_method_handler(handle)

    return rpc


def refusing(
    code: grpc.StatusCode, reason: str, details: str, observers: Observers
) -> "grpc.RpcMethodHandler[Any, Any]":
    """A method that refuses every call. Observers are told under no method's name: the caller has chosen it."""

    async def refuse(_: object, context: Context) -> None:
        Call("", context).end(observers, code.name, reason)
        await context.abort(code, details)

    # As a stream, so that nothing of the request is waited for.
    return grpc.stream_stream_rpc_method_handler(refuse)


class _EndOfStream(Exception):
    """Takes a stream's messages down with it."""


def _as_status(refused: Refusal, _: Message | None) -> Refusal:
    return refused


async def _answer(
    method: Method[Request],
    request_type: type[Request],
    message: bytes,
    call: Call,
    observers: Observers,
    refuse: Callable[[Refusal, Request | None], bytes | Refusal],
) -> bytes | Refusal:
    """What becomes of one request.

    It is parsed in our own code: the generated handlers answer bytes that do not parse with UNKNOWN.
    """
    request = None
    try:
        request = parse(request_type, message)
        response = await method(request, call)
    except asyncio.CancelledError:
        call.leave(observers)
        raise
    except Exception as error:  # the request's outer edge: no text of ours may leak by accident
        refused = refusal(error, call.request_id)
        # Its frames hold the message.
        traceback.clear_frames(error.__traceback__)
        call.end(observers, refused.code.name, refused.reason)
        return refuse(refused, request)
    call.end(observers)
    return response


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
