"""The one table from what went wrong to what the caller is told."""

import logging
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import grpc

from serve.errors import (
    Busy,
    DeadlineExceeded,
    DeadlineUnreachable,
    Draining,
    EngineFault,
    InvalidPicture,
    InvalidRequest,
    LoadFailed,
    PictureFault,
    PictureQueueFull,
    QueueFull,
    ServeError,
    Unavailable,
    UnknownModel,
    Unsupported,
)

log = logging.getLogger(__name__)

CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidPicture: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    LoadFailed: grpc.StatusCode.FAILED_PRECONDITION,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PictureQueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineUnreachable: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Draining: grpc.StatusCode.UNAVAILABLE,
    PictureFault: grpc.StatusCode.INTERNAL,
    EngineFault: grpc.StatusCode.INTERNAL,
}


class Refusal(NamedTuple):
    """What a request gets that is not answered.

    Attributes:
        code: gRPC's status.
        reason: Why, in a word for metrics, such as "queue_full".
        details: The same for people.
        retry_after_ms: When to come back, where that is known.
    """

    code: grpc.StatusCode
    reason: str
    details: str
    retry_after_ms: int | None = None

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """What gRPC clients obey by themselves."""
        return () if self.retry_after_ms is None else (("grpc-retry-pushback-ms", str(self.retry_after_ms)),)


def refusal(error: Exception, request_id: Callable[[], str]) -> Refusal:
    """What the caller is told. Anything that is not in the table is our own fault, and its reason goes to the log.

    Args:
        error: What the method raised.
        request_id: Names the request, where that is needed.
    """
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    reason = _reason(type(error))
    if code is grpc.StatusCode.INTERNAL:
        name = request_id()
        log.error("request %s failed", name, exc_info=error, extra={"request_id": name})
        return Refusal(code, reason, f"internal error; the server's log has the reason under request id {name}")
    if isinstance(error, Busy):
        # At least a millisecond: clients read 0 as "at once".
        return Refusal(code, reason, str(error), max(1, math.ceil(error.retry_after_s * 1000)))
    return Refusal(code, reason, str(error))


def _reason(error: type[Exception]) -> str:
    """The class's name as metrics spell it: QueueFull is queue_full. Classes that are not ours are one reason."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower() if issubclass(error, ServeError) else "internal"
