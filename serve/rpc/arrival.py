"""Requests must arrive whole and in time, and callers may leave when they like.

gRPC itself waits for ever for a message of which a part is missing, and the call counts as under way all the while. So
to gRPC every method here takes a stream, of which one message is read: by us, who know when to give up. Of a stream
proper nobody can tell a message of which a part is missing from silence, so silence is what ends it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, NoReturn, Self, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from serve.rpc.calls import Call, Observers, refusing

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


# Moving a timer costs more than all else that is done at a message here, so a stream's is not moved more often.
_MOVE_S = 0.1


class Arrivals:
    """How many calls have begun whose request is still on its way. Written on the event loop, read on any thread."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


class Punctual(grpc.GenericRpcHandler):
    """Other handlers, whose methods' requests must arrive.

    Args:
        handlers: Their methods, asynchronous ones.
        arrivals: Counts the calls whose request is on its way.
        max_deadline_s: Seconds from a call's beginning until its request must be there.
        max_stream_idle_s: Seconds without a message until a stream is ended, once its last answer may be expected.
        max_streams: Most streams at once. They last, so they must not take up every call.
        observers: Are told of every call that comes to an end here; of the others the methods tell.
    """

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        arrivals: Arrivals,
        *,
        max_deadline_s: float,
        max_stream_idle_s: float,
        max_streams: int,
        observers: Observers,
    ) -> None:
        self._handlers = handlers
        self._arrivals = arrivals
        self._max_deadline_s = max_deadline_s
        self._max_stream_idle_s = max_stream_idle_s
        self._max_streams = max_streams
        self._streams = 0
        self._observers = observers
        self._unknown = refusing(
            grpc.StatusCode.UNIMPLEMENTED,
            "unknown_method",
            "this server has no such method; reflection lists those it has",
            observers,
        )
        self._methods: dict[str, MethodHandler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> "MethodHandler":
        """The method that was called, or one that says that there is none."""
        method = self._methods.get(details.method)
        if method is None:
            for handler in self._handlers:
                # Only what exists is kept: names that callers make up are without number.
                if (found := handler.service(details)) is not None:
                    method = self._methods[details.method] = self._punctual(details.method.removeprefix("/"), found)
        return method or self._unknown

    def _punctual(self, name: str, method: Any) -> Any:
        if method.request_streaming:
            read, write = method.request_deserializer, method.response_serializer
            return grpc.stream_stream_rpc_method_handler(
                _forgiving(self._limited(name, method.stream_stream)), read, write
            )

        async def unary(_: AsyncIterator[bytes], context: Context) -> Any:
            # The message has no name here: gRPC keeps the frames of calls that are aborted.
            return await method.unary_unary(await self._receive(name, method, context), context)

        async def stream(_: AsyncIterator[bytes], context: Context) -> None:
            await method.unary_stream(await self._receive(name, method, context), context)

        if method.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, None, method.response_serializer)
        return grpc.stream_unary_rpc_method_handler(unary, None, method.response_serializer)

    async def _receive(self, name: str, method: Any, context: Context) -> Any:
        """The only message of a call, as the method wants it; a call without one is refused."""
        # Also what the core, which does not say so, has ended: a message that is too large, or compressed.
        code, reason = grpc.StatusCode.INVALID_ARGUMENT, "no_message"
        details = "the call was ended before its message had arrived whole"
        message = grpc.aio.EOF
        try:
            with self._arrivals:
                async with asyncio.timeout(self._max_deadline_s):
                    message = await context.read()
            if message is not grpc.aio.EOF:
                return method.request_deserializer(message) if method.request_deserializer else message
        except asyncio.CancelledError:
            Call(name, context).leave(self._observers)
            raise
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            details = f"no whole message arrived within {self._max_deadline_s:g} s, the most that is allowed"
        except DecodeError:
            reason = "invalid_request"
            details = f"the {len(message)} bytes received are no request of this method; check the client's protos"
        del message  # see above
        await self._refuse(name, context, code, reason, details)

    async def _refuse(self, name: str, context: Context, code: grpc.StatusCode, reason: str, details: str) -> NoReturn:
        Call(name, context).end(self._observers, code.name, reason)
        await context.abort(code, details)

    def _limited(self, name: str, method: Any) -> Any:
        """A stream's method, which lasts as long as messages come."""

        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            if self._streams >= self._max_streams:
                details = f"{self._streams} streams are open, the most that may be; send single calls, or try later"
                await self._refuse(name, context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many_streams", details)
            self._streams += 1
            try:
                # Once the stream was silent for so long, the answers to what came before have had their time.
                most_s = self._max_stream_idle_s + self._max_deadline_s
                async with asyncio.timeout(most_s) as limit:
                    await method(_Awaited(messages, limit, most_s), context)
                return
            except TimeoutError:
                details = f"no whole message arrived for {self._max_stream_idle_s:g} s, the most that a stream may wait"
            finally:
                self._streams -= 1
            await self._refuse(name, context, grpc.StatusCode.DEADLINE_EXCEEDED, "silent_stream", details)

        return handle


class _Awaited:
    """The messages of a stream, whose end is put off whenever the next of them is asked for.

    Args:
        messages: As gRPC has them.
        limit: When the stream is ended.
        most_s: Seconds without a message until then.
    """

    def __init__(self, messages: AsyncIterator[bytes], limit: asyncio.Timeout, most_s: float) -> None:
        self._next = aiter(messages).__anext__
        self._time = asyncio.get_running_loop().time
        self._limit = limit
        self._most_s = most_s
        self._moved = self._time()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        now = self._time()
        if now - self._moved > _MOVE_S and not self._limit.expired():
            self._limit.reschedule(now + self._most_s)
            self._moved = now
        return self._next()


def _forgiving(method: Any) -> Any:
    """A stream's method, for which it is no error that its caller leaves while an answer is written."""

    async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
        try:
            await method(messages, context)
        except* grpc.aio.InternalError:
            # What gRPC takes for the end of a call, as it should. The error itself it would log at length.
            raise asyncio.CancelledError from None

    return handle
