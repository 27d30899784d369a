"""How a client reaches its servers: names and addresses, what is tried again, how a dead connection is noticed."""

import ipaddress
import json
from collections.abc import Sequence
from typing import TypeAlias

import grpc
import grpc.aio

from clients import health
from clients.access import Tls
from clients.errors import DigitError

Address: TypeAlias = str | Sequence[str]
"""HOST:PORT, or several servers that answer in turn: a sequence of IP:PORT, or `dns:///NAME:PORT`."""

Options: TypeAlias = list[tuple[str, str | int]]

# No method changes anything on a server, so a call that was not answered can be sent again. The server
# says with `grpc-retry-pushback-ms` when, if it is busy; gRPC obeys that by itself. A deadline is never retried.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": health.SERVICE}, {"service": health.NAME}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # CANCELLED is what gRPC tells calls that arrive in the very moment in which a server closes.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    # When more than half of the calls fail, retrying stops: it would only add to the load.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}

# Calls go in turn to the servers that say they serve: gRPC watches `grpc.health.v1` on each connection.
_IN_TURN = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": health.SERVICE}}

# Half of what a digit server grants (`max_connection_idle_s`) unless it was told otherwise.
_IDLE_MS = 300_000

_OPTIONS: Options = [
    # A request that does not fit into this buffer is sent once only; gRPC's default holds 334 images.
    ("grpc.per_rpc_retry_buffer_size", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    # A server that was restarted is found again in seconds; gRPC would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # A connection that something on the way has dropped without a word is noticed while nobody waits for it.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # An idle connection is closed by its client, before a server does so, which could meet a call on its way and of
    # which gRPC prints a line. (That of a `grpc.aio` channel lives on until the calls it had are garbage-collected.)
    ("grpc.client_idle_timeout_ms", _IDLE_MS),
]


def target(address: Address) -> str:
    """The address as gRPC wants it.

    Raises:
        DigitError: It is none; or one of several has a name, which only `dns:///` resolves.
    """
    if isinstance(address, str):
        port = address.rpartition(":")[2]
        if "://" in address.removeprefix("dns:///") or not _is_port(port):
            raise DigitError(f"the address is {address!r}; HOST:PORT was expected, with a port of 1 to 65535")
        return address
    versions = {_ip_version(each) for each in address}
    if len(versions) != 1:
        raise DigitError(
            f"addresses are {', '.join(address) or 'none'}; one or more IP:PORT of one IP version were expected"
        )
    return f"ipv{versions.pop()}:{','.join(address)}"


def open_channel(address: Address, tls: Tls | None, *, retry: bool = True) -> grpc.Channel:
    """A channel for synchronous calls."""
    to, options = target(address), _options(address, tls, retry=retry)
    return grpc.insecure_channel(to, options) if tls is None else grpc.secure_channel(to, tls.credentials(), options)


def open_aio_channel(address: Address, tls: Tls | None, *, retry: bool = True) -> grpc.aio.Channel:
    """A channel for asynchronous calls."""
    to, options = target(address), _options(address, tls, retry=retry)
    return (
        grpc.aio.insecure_channel(to, options)
        if tls is None
        else grpc.aio.secure_channel(to, tls.credentials(), options)
    )


def _options(address: Address, tls: Tls | None, *, retry: bool) -> Options:
    in_turn = not isinstance(address, str) or address.startswith("dns:")
    config = _SERVICE_CONFIG | (_IN_TURN if in_turn else {})
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls and tls.server_name else []
    return [*_OPTIONS, *name, ("grpc.enable_retries", int(retry)), ("grpc.service_config", json.dumps(config))]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 16


def _ip_version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        if not _is_port(port):
            raise ValueError("no port")
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError as error:
        raise DigitError(
            f"{address!r} is no IP:PORT, which each of several addresses must be; "
            "servers that share a name are reached as dns:///NAME:PORT"
        ) from error
