"""The asynchronous client, the twin of `client.DigitClient`."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
import numpy.typing as npt

from clients import access, wire
from clients.access import Tls
from clients.answers import Classification, ModelInfo
from clients.client import DEFAULT_TIMEOUT_S
from clients.errors import DigitError, from_status
from protos.digits.v1 import digits_pb2, digits_pb2_grpc


class AsyncDigitClient:
    """Calls one digit server from one event loop; any number of calls may be under way at once.

    An asynchronous context manager. Deadlines and retries are those of `DigitClient`, and so are the arguments.
    """

    def __init__(
        self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, tls: Tls | None = None, token: str | None = None
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._metadata = access.metadata(token)
        self._channel = access.open_aio_channel(address, tls, wire.CHANNEL_OPTIONS)
        self._stub = digits_pb2_grpc.DigitRecognizerStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls in flight raise ServerError with code CANCELLED."""
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
        return wire.from_response(await self._call(self._stub.Classify, request, timeout_s))

    async def classify_stream(
        self,
        batches: AsyncIterable[npt.ArrayLike],
        *,
        top_k: int = 0,
        model: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> AsyncIterator[Classification | DigitError]:
        """See `DigitClient.classify_stream`; the batches are taken by a task of their own."""
        failed: list[Exception] = []

        async def requests() -> AsyncIterator[digits_pb2.ClassifyRequest]:
            try:
                async for images in batches:
                    yield wire.to_request(images, model=model, version=version, top_k=top_k)
            except Exception as error:  # in gRPC's task, which would only log it
                failed.append(error)
                call.cancel()

        timeout = wire.check_timeout(self.timeout_s if timeout_s is None else timeout_s)
        call = self._stub.ClassifyStream(requests(), timeout=timeout, metadata=self._metadata)
        try:
            async for response in call:
                yield wire.from_streamed(self.address, response)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            if failed:
                raise failed[0] from None
            if isinstance(error, asyncio.CancelledError):
                raise
            raise from_status(self.address, error.code(), error.details()) from error
        finally:
            call.cancel()

    async def get_model(self, *, model: str = "", version: str = "", timeout_s: float | None = None) -> ModelInfo:
        """See `DigitClient.get_model`."""
        request = digits_pb2.GetModelRequest(model=model, version=version)
        return wire.from_model(await self._call(self._stub.GetModel, request, timeout_s))

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[wire.Request, wire.Response]",
        request: wire.Request,
        timeout_s: float | None,
    ) -> wire.Response:
        try:
            timeout = wire.check_timeout(self.timeout_s if timeout_s is None else timeout_s)
            return await method(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_status(self.address, error.code(), error.details()) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Nobody cancelled the caller: the connection was closed under the call.
            raise from_status(self.address, grpc.StatusCode.CANCELLED, "the client was closed") from error
