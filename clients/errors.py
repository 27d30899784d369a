"""What a call can raise.

DigitError
├── InvalidImages       the images, or another argument, break the contract; do not retry
├── ModelNotFound       the server has no such model or version; do not retry
├── ClientClosed        the client was used after it was closed
├── AccessDenied        the server asks for a token, or for another one; do not retry
├── ServerBusy          the server's queue is full, retries included; try later or elsewhere
├── TimedOut            no answer within the deadline
├── ServerUnavailable   nothing answers at the address, or the server is starting or draining, retries included
├── ProtocolMismatch    what answers is no digit server, or encryption is not what both ends expect; do not retry
└── ServerError         the server failed on this call
"""

import re

import grpc


class DigitError(Exception):
    """Base of everything that a client raises.

    Attributes:
        code: The gRPC status, None when nothing was sent.
        request_id: What the call was named to the server, whose log may know more; empty when nothing was sent.
    """

    def __init__(self, message: str, *, code: grpc.StatusCode | None = None, request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class InvalidImages(DigitError):
    """The images, or another argument, break the contract."""


class ModelNotFound(DigitError):
    """The server has no such model or version."""


class ClientClosed(DigitError):
    """The client was used after it was closed."""


class AccessDenied(DigitError):
    """The server asks for a token, or for another one."""


class ServerBusy(DigitError):
    """The server's queue was full at every attempt."""


class TimedOut(DigitError):
    """There was no answer within the deadline."""


class ServerUnavailable(DigitError):
    """No server could be reached at the address, or it does not take requests."""


class ProtocolMismatch(DigitError):
    """What answers at the address is no digit server, or encryption is not what both ends expect."""


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

_REFUSED = "Connection refused"

# Of the addresses that a name stands for, such as 127.0.0.1 and ::1, gRPC tells one failure only.
_BY_NAME = " If it is, does it encrypt as this client does? Called by its IP address it says more"

# What gRPC has no status of its own for: the status that it uses, words of its message, what that means, what to do.
_FINER: tuple[tuple[grpc.StatusCode, str, type[DigitError], str], ...] = (
    (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
        InvalidImages,
        "the message is too large; send fewer images in one request, or scale the picture down",
    ),
    (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "Deadline Exceeded",
        TimedOut,
        "no answer in time; is the server there, and does it keep up? else allow more time",
    ),
    (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found",
        ProtocolMismatch,
        "the server does not know the method; is it a digit server, and a recent one?",
    ),
    (
        grpc.StatusCode.UNAVAILABLE,
        "Failed parsing HTTP/2",
        ProtocolMismatch,
        "what listens there speaks no gRPC; is it the server's port for metrics, or another program's?",
    ),
    (
        grpc.StatusCode.UNAVAILABLE,
        "WRONG_VERSION_NUMBER",
        ProtocolMismatch,
        "what listens there does not encrypt; leave out the TLS files if that is intended",
    ),
    (
        grpc.StatusCode.UNAVAILABLE,
        "CERTIFICATE_VERIFY_FAILED",
        ProtocolMismatch,
        "the root certificates given do not vouch for this server, or a certificate has expired",
    ),
    (
        grpc.StatusCode.UNAVAILABLE,
        "Hostname Verification Check failed",
        ProtocolMismatch,
        "the server's certificate is for another name; call it by that, or give it as the server name of TLS",
    ),
    (
        grpc.StatusCode.UNAVAILABLE,
        _REFUSED,
        ServerUnavailable,
        "nothing listens there; is the server running, and on this port?",
    ),
    (
        grpc.StatusCode.UNAVAILABLE,
        "last error: UNAVAILABLE: ",
        ServerUnavailable,
        "the server hangs up at once; if it encrypts, TLS files are needed, and a certificate of one's own if it asks "
        "for one",
    ),
)


def from_status(address: str, code: grpc.StatusCode, details: str | None, request_id: str = "") -> DigitError:
    """The exception for a call to `address` that ended with `code`."""
    details = details or "no details"
    kind = _CLASSES.get(code, ServerError)
    for status, words, finer, meaning in _FINER:
        if code is status and words in details:
            if words == _REFUSED and not re.match(r"[\d\[]", address):
                meaning += _BY_NAME
            kind, details = finer, f"{meaning} ({details})"
            break
    return kind(f"{address}: {code.name}: {details}", code=code, request_id=request_id)
