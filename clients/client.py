"""The synchronous client."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import grpc
import numpy.typing as npt

from clients import channel, health, wire
from clients.access import Tls
from clients.answers import Classification, ModelInfo
from clients.calls import DEFAULT_TIMEOUT_S, Call, Caller
from clients.channel import Address
from clients.coalesce import MOST_IMAGES, Coalescer, Part
from clients.errors import DigitError, TimedOut
from protos.digits.v1 import digits_pb2, digits_pb2_grpc


class DigitClient:
    """Calls digit servers; may be shared between threads.

    A context manager: the connection is made at the first call and closed on leaving. Every call has a deadline. Calls
    that found the server busy or away are repeated up to three times within it; nothing else is.

    Several servers answer in turn. Those that do not report themselves healthy are left out, and a call that one of
    them refused is repeated at the next.

    Args:
        address: "HOST:PORT"; for several servers a sequence of "IP:PORT", or "dns:///NAME:PORT" for all that a name
            stands for.
        timeout_s: Deadline of every call that sets none of its own, in seconds.
        tls: The files for an encrypted connection; None does not encrypt.
        token: What every call brings along, where the server asks for one. Encrypt the connection, or it can be read.
        coalesce: Whether `classify` gathers calls that are made at the same time, by other threads, into one request.
            For many callers with an image or a few each; a lone caller gains nothing.

    Raises:
        DigitError: The address is none, `timeout_s` has no end, the token cannot be sent, or a file of `tls` cannot be
            used.
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
        self._channel = channel.open_channel(address, tls)
        self._stub = digits_pb2_grpc.DigitRecognizerStub(self._channel)
        self._watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(health.WATCH)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Requests in flight raise ServerError with code CANCELLED, later ones ClientClosed."""
        self._caller.close()
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
        """Classify one or many images. More than 1024 are sent in several requests, one after another.

        Args:
            images: uint8 [28, 28], [N, 28, 28] or [N, 1, 28, 28], white ink on black.
            top_k: How many candidates to list per image, 0 to 10.
            model: Name of the model; empty for the server's default.
            version: Version of the model; empty for the one being served.
            timeout_s: Deadline of this call in seconds.

        Raises:
            DigitError: One of its children, see `clients.errors`.
        """
        request = wire.to_request(images, model=model, version=version, top_k=top_k)
        call = self._caller.call(timeout_s)
        if self._coalescer and wire.count(request) <= MOST_IMAGES:
            return self._share(self._coalescer, request, call)
        responses = [self._call(self._stub.Classify, each, call) for each in wire.split(request)]
        return wire.join([wire.from_response(each) for each in responses])

    def classify_pictures(
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
        """Classify the digits in pictures, which the server finds.

        Args:
            pictures: Contents of picture files: PNG, JPEG, WebP, BMP, TIFF or GIF; as many and as large as the server
                allows.
            many: Whether a picture may hold several digits, or none; there is then a prediction for each digit.
            return_pixels: Whether the answer is to have the pixels that the model was given.
            top_k: As in `classify`.
            model: As in `classify`.
            version: As in `classify`.
            timeout_s: As in `classify`.

        Raises:
            DigitError: One of its children, see `clients.errors`; `ServerError` with code UNIMPLEMENTED if the server
                reads no pictures.
        """
        request = wire.to_picture_request(
            pictures, many=many, return_pixels=return_pixels, model=model, version=version, top_k=top_k
        )
        return wire.from_response(self._call(self._stub.Classify, request, self._caller.call(timeout_s)))

    def stream(
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
            batches: Images as in `classify`, up to the server's limit each; taken from another thread, a few ahead of
                the answers.
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
                answers.cancel()

        call = self._caller.call(timeout_s)
        with self._unless_closed():
            answers = self._stub.ClassifyStream(requests(), timeout=call.timeout_s, metadata=call.metadata)
        try:
            for response in answers:
                yield wire.from_streamed(call, response)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise call.error(error.code(), error.details()) from error
        finally:
            answers.cancel()

    def get_model(self, *, model: str = "", version: str = "", timeout_s: float | None = None) -> ModelInfo:
        """Describe a served model. Arguments and errors as in `classify`."""
        request = digits_pb2.GetModelRequest(model=model, version=version)
        return wire.from_model(self._call(self._stub.GetModel, request, self._caller.call(timeout_s)))

    def wait_until_ready(self, timeout_s: float | None = None) -> None:
        """Return as soon as a server says that it recognises digits, be it yet to be started.

        Raises:
            TimedOut: None has by then.
            DigitError: What answers is no digit server, or does not let us in.
        """
        call = self._caller.call(timeout_s)
        while True:
            with self._unless_closed():
                statuses = self._watch(
                    health.REQUEST, timeout=call.timeout_s, metadata=call.metadata, wait_for_ready=True
                )
            try:
                if health.SERVING in statuses:
                    return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise call.error(error.code(), error.details()) from error
            finally:
                statuses.cancel()

    def _share(self, coalescer: Coalescer, request: digits_pb2.ClassifyRequest, call: Call) -> Classification:
        """Classify along with other callers' images."""
        answer: Future[Classification] = Future()
        part = wire.to_part(request, call.deadline, answer)
        if coalescer.add(part):
            self._lead(coalescer, part)
        try:
            return answer.result(call.timeout_s)
        except TimeoutError:
            raise TimedOut(f"{call.address}: no answer in time", code=grpc.StatusCode.DEADLINE_EXCEEDED) from None
        finally:
            coalescer.withdraw(part)

    def _lead(self, coalescer: Coalescer, part: Part) -> None:
        """See that requests of this kind are sent: a lone one from this thread, which waits anyway."""
        parts = coalescer.take(part.kind)
        try:
            if parts == [part]:
                parts = []
                self._send(coalescer, [part])
        finally:
            if parts := parts or coalescer.take(part.kind):
                threading.Thread(target=self._send_all, args=(coalescer, parts), name="digits-coalesce").start()

    def _send_all(self, coalescer: Coalescer, parts: list[Part]) -> None:
        while parts:
            self._send(coalescer, parts)
            parts = coalescer.take(parts[0].kind)

    def _send(self, coalescer: Coalescer, parts: list[Part]) -> None:
        try:
            call = self._caller.until(max(part.deadline for part in parts))
            response = self._call(self._stub.Classify, wire.to_shared(parts), call)
            coalescer.answer(parts, wire.from_response(response))
        except Exception as error:  # the others wait for it, whatever it is
            coalescer.fail(parts, error)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[wire.Request, wire.Response]",
        request: wire.Request,
        call: Call,
    ) -> wire.Response:
        try:
            with self._unless_closed():
                return method(request, timeout=call.timeout_s, metadata=call.metadata)
        except grpc.RpcError as error:
            raise call.error(error.code(), error.details()) from error

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Says what gRPC means when it is asked for a call after another thread has closed the channel."""
        try:
            yield
        except ValueError as error:
            raise self._caller.closed() from error
