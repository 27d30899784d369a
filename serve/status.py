"""The one table from what went wrong to what the caller is told."""

import logging
import math
import uuid
from typing import NoReturn, TypeAlias

import grpc
import grpc.aio

from serve.errors import (
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    QueueFull,
    Unavailable,
    UnknownModel,
)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

log = logging.getLogger(__name__)

CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    EngineFault: grpc.StatusCode.INTERNAL,
}


async def abort(context: Context, error: Exception) -> NoReturn:
    """End a call with the status that `error` stands for. Anything that is not in the table is our own fault."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        await context.abort(code, _neutral(error))
    if isinstance(error, QueueFull):
        # At least a millisecond: clients read 0 as "at once".
        pushback_ms = max(1, math.ceil(error.retry_after_s * 1000))
        await context.abort(code, str(error), (("grpc-retry-pushback-ms", str(pushback_ms)),))
    await context.abort(code, str(error))


def _neutral(error: Exception) -> str:
    """Log the detail under a fresh id; the caller learns the id only."""
    request_id = uuid.uuid4().hex
    log.error("request %s failed", request_id, exc_info=error)
    return f"internal error; the server's log has the reason under request id {request_id}"
