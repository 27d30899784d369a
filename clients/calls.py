"""A call of the user's, synchronous or not: its deadline, what it brings along, the exception when it fails."""

import math
import secrets
import time
from dataclasses import dataclass

import grpc

from clients import access
from clients.channel import Address
from clients.errors import ClientClosed, DigitError, InvalidImages, from_status

DEFAULT_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call, which may take several requests.

    Attributes:
        address: Where it goes, for messages.
        deadline: When it is given up, by the monotonic clock.
        request_id: What the server's log calls it.
        metadata: What each request brings along.
    """

    address: str
    deadline: float
    request_id: str
    metadata: tuple[tuple[str, str], ...]

    @property
    def timeout_s(self) -> float:
        """Seconds that are left. At least a millisecond: gRPC takes no time for an answer that can be given at once."""
        return max(1e-3, self.deadline - time.monotonic())

    def error(self, code: grpc.StatusCode, details: str | None) -> DigitError:
        """The exception where a request ended with `code`."""
        return from_status(self.address, code, details, self.request_id)


class Caller:
    """Makes the calls of one client.

    Args:
        address: Where they go.
        timeout_s: Deadline of those that set none of their own.
        token: What they bring along.

    Raises:
        InvalidImages: `timeout_s` is no time that can pass: every call has a deadline.
    """

    def __init__(self, address: Address, timeout_s: float, token: str | None) -> None:
        self._address = address if isinstance(address, str) else ",".join(address)
        self._timeout_s = _checked(timeout_s)
        self._metadata = access.metadata(token)
        self._closed = False

    def close(self) -> None:
        """Make no more calls."""
        self._closed = True

    def closed(self) -> ClientClosed:
        """What a call raises from then on."""
        return ClientClosed(f"{self._address}: this client was closed; make a new one")

    def call(self, timeout_s: float | None) -> Call:
        """A call that begins now.

        Raises:
            InvalidImages: `timeout_s` is no time that can pass.
            ClientClosed: There are no more calls.
        """
        return self.until(time.monotonic() + (self._timeout_s if timeout_s is None else _checked(timeout_s)))

    def until(self, deadline: float) -> Call:
        """A call with a deadline by the monotonic clock.

        Raises:
            ClientClosed: There are no more calls.
        """
        if self._closed:
            raise self.closed()
        request_id = secrets.token_hex(8)
        metadata = (*self._metadata, ("x-request-id", request_id))
        return Call(address=self._address, deadline=deadline, request_id=request_id, metadata=metadata)


def _checked(timeout_s: float) -> float:
    if not 0 < timeout_s < math.inf:
        raise InvalidImages(f"timeout_s is {timeout_s}; a finite number of seconds above 0 was expected")
    return timeout_s
