"""The one table from what went wrong to what the caller is told."""

import logging
import math
import uuid
from typing import NamedTuple

import grpc

from serve.errors import (
    Busy,
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineFault,
    InvalidRequest,
    QueueFull,
    Unavailable,
    UnknownModel,
    Unsupported,
)

log = logging.getLogger(__name__)

CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineUnreachable: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    EngineFault: grpc.StatusCode.INTERNAL,
}


class Refusal(NamedTuple):
    """What a request gets that is not answered.

    Attributes:
        code: gRPC's status.
        details: The same for people.
        retry_after_ms: When to come back, where that is known.
    """

    code: grpc.StatusCode
    details: str
    retry_after_ms: int | None = None

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """What gRPC clients obey by themselves."""
        return () if self.retry_after_ms is None else (("grpc-retry-pushback-ms", str(self.retry_after_ms)),)


def refusal(error: Exception) -> Refusal:
    """What the caller is told. Anything that is not in the table is our own fault, and its reason goes to the log."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        request_id = uuid.uuid4().hex
        log.error("request %s failed", request_id, exc_info=error)
        return Refusal(code, f"internal error; the server's log has the reason under request id {request_id}")
    if isinstance(error, Busy):
        # At least a millisecond: clients read 0 as "at once".
        return Refusal(code, str(error), max(1, math.ceil(error.retry_after_s * 1000)))
    return Refusal(code, str(error))
