"""The asynchronous client, the twin of `client.DigitClient`."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
import numpy.typing as npt

from clients import channel, health, wire
from clients.access import Tls
from clients.answers import Classification, ModelInfo
from clients.calls import DEFAULT_TIMEOUT_S, Call, Caller
from clients.channel import Address
from clients.coalesce import MOST_IMAGES, Coalescer, Kind
from clients.errors import DigitError, TimedOut
from protos.digits.v1 import digits_pb2, digits_pb2_grpc


class AsyncDigitClient:
    """Calls digit servers from one event loop; any number of calls may be under way at once.

    An asynchronous context manager. Deadlines and retries are those of `DigitClient`, and so are the arguments.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: Tls | None = None,
        token: str | None = None,
        coalesce: bool = False,
    ) -> None:
        self.address = address
        self._caller = Caller(address, timeout_s, token)
        self._coalescer = Coalescer() if coalesce else None
        self._senders: set[asyncio.Task[None]] = set()
        self._channel = channel.open_aio_channel(address, tls)
        self._stub = digits_pb2_grpc.DigitRecognizerStub(self._channel)
        self._watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(health.WATCH)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Requests in flight raise ServerError with code CANCELLED, later ones ClientClosed."""
        self._caller.close()
        await self._channel.close()

    async def classify(
        self,
        images: npt.ArrayLike,
        *,
        top_k: int = 0,
        model: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> Classification:
        """See `DigitClient.classify`."""
        request = wire.to_request(images, model=model, version=version, top_k=top_k)
        call = self._caller.call(timeout_s)
        if self._coalescer and wire.count(request) <= MOST_IMAGES:
            return await self._share(self._coalescer, request, call)
        responses = [await self._call(self._stub.Classify, each, call) for each in wire.split(request)]
        return wire.join([wire.from_response(each) for each in responses])

    async def classify_pictures(
        self,
        pictures: Sequence[bytes],
        *,
        many: bool = False,
        return_pixels: bool = False,
        top_k: int = 0,
        model: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> Classification:
        """See `DigitClient.classify_pictures`."""
        request = wire.to_picture_request(
            pictures, many=many, return_pixels=return_pixels, model=model, version=version, top_k=top_k
        )
        return wire.from_response(await self._call(self._stub.Classify, request, self._caller.call(timeout_s)))

    async def stream(
        self,
        batches: AsyncIterable[npt.ArrayLike],
        *,
        top_k: int = 0,
        model: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> AsyncIterator[Classification | DigitError]:
        """See `DigitClient.stream`; the batches are taken by a task of their own."""
        failed: list[Exception] = []

        async def requests() -> AsyncIterator[digits_pb2.ClassifyRequest]:
            try:
                async for images in batches:
                    yield wire.to_request(images, model=model, version=version, top_k=top_k)
            except Exception as error:  # in gRPC's task, which would only log it
                failed.append(error)
                answers.cancel()

        call = self._caller.call(timeout_s)
        answers = self._stub.ClassifyStream(requests(), timeout=call.timeout_s, metadata=call.metadata)
        try:
            async for response in answers:
                yield wire.from_streamed(call, response)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            if failed:
                raise failed[0] from None
            if isinstance(error, asyncio.CancelledError):
                raise _cancelled(call, error) from None
            raise call.error(error.code(), error.details()) from error
        finally:
            answers.cancel()

    async def get_model(self, *, model: str = "", version: str = "", timeout_s: float | None = None) -> ModelInfo:
        """See `DigitClient.get_model`."""
        request = digits_pb2.GetModelRequest(model=model, version=version)
        return wire.from_model(await self._call(self._stub.GetModel, request, self._caller.call(timeout_s)))

    async def wait_until_ready(self, timeout_s: float | None = None) -> None:
        """See `DigitClient.wait_until_ready`."""
        call = self._caller.call(timeout_s)
        while True:
            statuses = self._watch(health.REQUEST, timeout=call.timeout_s, metadata=call.metadata, wait_for_ready=True)
            try:
                async for status in statuses:
                    if status == health.SERVING:
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise call.error(error.code(), error.details()) from error
            except asyncio.CancelledError as error:
                raise _cancelled(call, error) from None
            finally:
                statuses.cancel()

    async def _share(self, coalescer: Coalescer, request: digits_pb2.ClassifyRequest, call: Call) -> Classification:
        """Classify along with other callers' images."""
        answer: asyncio.Future[Classification] = asyncio.get_running_loop().create_future()
        part = wire.to_part(request, call.deadline, answer)
        if coalescer.add(part):
            # It begins once every task that can run now has run, so that they leave together.
            sender = asyncio.create_task(self._send(coalescer, part.kind))
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        try:
            async with asyncio.timeout(call.timeout_s):
                return await answer
        except TimeoutError:
            raise TimedOut(f"{call.address}: no answer in time", code=grpc.StatusCode.DEADLINE_EXCEEDED) from None
        finally:
            coalescer.withdraw(part)

    async def _send(self, coalescer: Coalescer, kind: Kind) -> None:
        """Send what calls of a kind have gathered, until there is nothing more."""
        while parts := coalescer.take(kind):
            try:
                call = self._caller.until(max(part.deadline for part in parts))
                response = await self._call(self._stub.Classify, wire.to_shared(parts), call)
                coalescer.answer(parts, wire.from_response(response))
            except Exception as error:  # in a task of ours, while the callers wait
                coalescer.fail(parts, error)

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[wire.Request, wire.Response]",
        request: wire.Request,
        call: Call,
    ) -> wire.Response:
        try:
            return await method(request, timeout=call.timeout_s, metadata=call.metadata)
        except grpc.aio.AioRpcError as error:
            raise call.error(error.code(), error.details()) from error
        except asyncio.CancelledError as error:
            raise _cancelled(call, error) from None


def _cancelled(call: Call, error: asyncio.CancelledError) -> BaseException:
    """What a cancelled request means: if nobody cancelled the caller, the connection was closed under the call."""
    task = asyncio.current_task()
    return error if task and task.cancelling() else call.error(grpc.StatusCode.CANCELLED, "the client was closed")
