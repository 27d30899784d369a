"""Bearer tokens: who may call. Not who calls: every token opens the same door, and there may be several to replace one.

Installed only where tokens are configured. Health checks need none: orchestrators ask without secrets.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

from serve.config import ServeConfig
from serve.errors import StartupError
from serve.rpc import health
from serve.rpc.calls import Observers, refusing
from serve.rpc.renewal import Renewal

log = logging.getLogger(__name__)

MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

LEAST_BYTES = 16
_MOST_FILE_BYTES = 64 << 10

# A token that is taken from the file opens nothing any more after this long.
_LOOK_AGAIN_S = 1.0

_HEALTH = f"/{health.NAME}/"


def interceptors(config: ServeConfig, observers: Observers = ()) -> list[grpc.aio.ServerInterceptor]:
    """What stands before every method: nothing where no tokens are configured.

    Args:
        config: The configuration.
        observers: Are told of every call that is not let in, under no method's name: its caller has chosen it.

    Raises:
        StartupError: See `read_tokens`.
    """
    if config.token_file is None:
        return []
    if config.tls_cert is None and not _is_loopback(config.host):
        log.warning("tokens cross the network readable by everybody on it; encrypt them with --tls-cert and --tls-key")
    return [RequireToken(config.token_file, observers)]


class RequireToken(grpc.aio.ServerInterceptor):
    """Calls must bring one of the tokens in a file.

    Args:
        path: The file, see `read_tokens`.
        observers: See `interceptors`.

    Raises:
        StartupError: See `read_tokens`.
    """

    def __init__(self, path: Path, observers: Observers) -> None:
        self._path = path
        self._no_token = refusing(
            grpc.StatusCode.UNAUTHENTICATED,
            "no_token",
            "no token was received; send the metadata `authorization: Bearer TOKEN`",
            observers,
        )
        self._wrong_token = refusing(
            grpc.StatusCode.UNAUTHENTICATED,
            "wrong_token",
            "the token received is not valid here; send the metadata `authorization: Bearer TOKEN` with one that is",
            observers,
        )
        self._file = Renewal(path)
        self._digests = read_tokens(path)
        self._look_again = time.monotonic() + _LOOK_AGAIN_S

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[MethodHandler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "MethodHandler | None":
        """The method, or one that refuses."""
        if not handler_call_details.method.startswith(_HEALTH):
            if time.monotonic() >= self._look_again:
                self._look_again = time.monotonic() + _LOOK_AGAIN_S
                await asyncio.to_thread(self._read_if_changed)
            if refusal := self._refusal(handler_call_details.invocation_metadata):
                return refusal
        return await continuation(handler_call_details)

    def _refusal(self, metadata: Any) -> "MethodHandler | None":
        value = next((value for key, value in metadata if key == "authorization"), None)
        if value is None:
            return self._no_token
        scheme, _, token = value.partition(" ")
        digest = _digest(token)
        # All of them, each in the same time whatever its bytes are.
        known = sum(hmac.compare_digest(digest, each) for each in self._digests)
        return None if known and scheme.lower() == "bearer" else self._wrong_token

    def _read_if_changed(self) -> None:
        if not self._file.changed():
            return
        try:
            self._digests = read_tokens(self._path)
        except StartupError as error:
            log.error("the old tokens stay valid: %s", error)
        else:
            log.info("%s was read again: %d tokens", self._path, len(self._digests))


def read_tokens(path: Path) -> Sequence[bytes]:
    """Digests of the tokens in a file, one a line; empty lines do not count.

    Raises:
        StartupError: It cannot be read, or has none, or one that is too short or cannot be sent. No token is in the
            message.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise StartupError(
            f"--token-file {path}: {error.strerror}; a file with one token a line was expected"
        ) from error
    if len(content) > _MOST_FILE_BYTES:
        raise StartupError(f"--token-file {path}: more than {_MOST_FILE_BYTES} bytes; one token a line was expected")
    lines = [(number, line.strip()) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if not lines:
        raise StartupError(f"--token-file {path}: empty; one token a line was expected")
    for number, token in lines:
        if len(token) < LEAST_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
            raise StartupError(
                f"--token-file {path}: line {number} has {len(token)} bytes; a token has at least {LEAST_BYTES}, all "
                "printable ASCII without spaces; `openssl rand -base64 32` makes one"
            )
    if mode & 0o077:
        log.warning("%s can be read by others than its owner (mode %03o); `chmod 600` makes it secret", path, mode)
    return [_digest(token.decode("ascii")) for _, token in lines]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
