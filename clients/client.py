"""The synchronous client."""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import grpc
import numpy.typing as npt

from clients import access, wire
from clients.access import Tls
from clients.answers import Classification, ModelInfo
from clients.errors import DigitError, from_status
from protos.digits.v1 import digits_pb2, digits_pb2_grpc

DEFAULT_TIMEOUT_S = 5.0


class DigitClient:
    """Calls one digit server; may be shared between threads.

    A context manager: the connection is made at the first call and closed on leaving. Every call has a deadline. Calls
    that found the server busy or away are repeated up to three times within it; nothing else is.

    Args:
        address: "HOST:PORT".
        timeout_s: Deadline of every call that sets none of its own, in seconds.
        tls: The files for an encrypted connection; None does not encrypt.
        token: What every call brings along, where the server asks for one. Encrypt the connection, or it can be read.

    Raises:
        DigitError: A file of `tls` cannot be used.
    """

    def __init__(
        self, address: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, tls: Tls | None = None, token: str | None = None
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._metadata = access.metadata(token)
        self._channel = access.open_channel(address, tls, wire.CHANNEL_OPTIONS)
        self._stub = digits_pb2_grpc.DigitRecognizerStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls in flight raise ServerError with code CANCELLED."""
        self._channel.close()

    def classify(
        self,
        images: npt.ArrayLike,
        *,
        top_k: int = 0,
        model: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> Classification:
        """Classify one or many images.

        Args:
            images: uint8 [28, 28], [N, 28, 28] or [N, 1, 28, 28], white ink on black, N up to the server's limit.
            top_k: How many candidates to list per image, 0 to 10.
            model: Name of the model; empty for the server's default.
            version: Version of the model; empty for the one being served.
            timeout_s: Deadline of this call in seconds.

        Raises:
            DigitError: One of its children, see `clients.errors`.
        """
        request = wire.to_request(images, model=model, version=version, top_k=top_k)
        return wire.from_response(self._call(self._stub.Classify, request, timeout_s))

    def classify_stream(
        self,
        batches: Iterable[npt.ArrayLike],
        *,
        top_k: int = 0,
        model: str = "",
        version: str = "",
        timeout_s: float | None = None,
    ) -> Iterator[Classification | DigitError]:
        """Classify batches as they come, over one call: the cheapest way to send many small ones.

        Args:
            batches: Images as in `classify`; taken from another thread, a few ahead of the answers.
            top_k: As in `classify`.
            model: As in `classify`.
            version: As in `classify`.
            timeout_s: Deadline of the whole stream in seconds.

        Yields:
            One answer per batch, in their order: its classification, or why the server refused it.

        Raises:
            DigitError: The stream has ended; what was not answered by then may be sent again.
        """
        failed: list[Exception] = []

        def requests() -> Iterator[digits_pb2.ClassifyRequest]:
            try:
                for images in batches:
                    yield wire.to_request(images, model=model, version=version, top_k=top_k)
            except Exception as error:  # on gRPC's thread, which would only print it
                failed.append(error)
                call.cancel()

        timeout = wire.check_timeout(self.timeout_s if timeout_s is None else timeout_s)
        call = self._stub.ClassifyStream(requests(), timeout=timeout, metadata=self._metadata)
        try:
            for response in call:
                yield wire.from_streamed(self.address, response)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise from_status(self.address, error.code(), error.details()) from error
        finally:
            call.cancel()

    def get_model(self, *, model: str = "", version: str = "", timeout_s: float | None = None) -> ModelInfo:
        """Describe a served model. Arguments and errors as in `classify`."""
        request = digits_pb2.GetModelRequest(model=model, version=version)
        return wire.from_model(self._call(self._stub.GetModel, request, timeout_s))

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[wire.Request, wire.Response]",
        request: wire.Request,
        timeout_s: float | None,
    ) -> wire.Response:
        try:
            timeout = wire.check_timeout(self.timeout_s if timeout_s is None else timeout_s)
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_status(self.address, error.code(), error.details()) from error
