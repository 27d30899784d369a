"""The one table from what went wrong to what the caller is told."""

import logging
import math
import uuid
from typing import NamedTuple

import grpc

from serve.errors import (
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    QueueFull,
    Unavailable,
    UnknownModel,
)

log = logging.getLogger(__name__)

CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    EngineFault: grpc.StatusCode.INTERNAL,
}


class Refusal(NamedTuple):
    """How a call ends that is not answered: the arguments of gRPC's `abort`."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...] = ()


def refusal(error: Exception) -> Refusal:
    """What the caller is told. Anything that is not in the table is our own fault, and its reason goes to the log."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        request_id = uuid.uuid4().hex
        log.error("request %s failed", request_id, exc_info=error)
        return Refusal(code, f"internal error; the server's log has the reason under request id {request_id}")
    if isinstance(error, QueueFull):
        # At least a millisecond: clients read 0 as "at once".
        pushback_ms = max(1, math.ceil(error.retry_after_s * 1000))
        return Refusal(code, str(error), (("grpc-retry-pushback-ms", str(pushback_ms)),))
    return Refusal(code, str(error))
