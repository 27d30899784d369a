"""What a call can raise.

DigitError
├── InvalidImages       the images, or another argument, break the contract; do not retry
├── ModelNotFound       the server has no such model or version; do not retry
├── AccessDenied        the server asks for a token, or for another one; do not retry
├── ServerBusy          the server's queue is full, retries included; try later or elsewhere
├── TimedOut            no answer within the deadline
├── ServerUnavailable   nothing answers at the address, or the server is starting or draining, retries included
└── ServerError         the server failed on this call
"""

import grpc


class DigitError(Exception):
    """Base of everything that a client raises. `code` is the gRPC status, None when nothing was sent."""

    def __init__(self, message: str, *, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


class InvalidImages(DigitError):
    """The images, or another argument, break the contract."""


class ModelNotFound(DigitError):
    """The server has no such model or version."""


class AccessDenied(DigitError):
    """The server asks for a token, or for another one."""


class ServerBusy(DigitError):
    """The server's queue was full at every attempt."""


class TimedOut(DigitError):
    """There was no answer within the deadline."""


class ServerUnavailable(DigitError):
    """No server could be reached at the address, or it does not take requests."""


class ServerError(DigitError):
    """The server failed on this call."""


_CLASSES: dict[grpc.StatusCode, type[DigitError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidImages,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusy,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
}


def from_status(address: str, code: grpc.StatusCode, details: str | None) -> DigitError:
    """The exception for a call to `address` that ended with `code`."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (details or ""):
        # gRPC's own limit on the size of a message has no status of its own.
        return InvalidImages(f"{address}: too many images in one request: {details}; send several requests", code=code)
    return _CLASSES.get(code, ServerError)(f"{address}: {code.name}: {details or 'no details'}", code=code)
