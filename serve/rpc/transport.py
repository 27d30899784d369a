"""Connections: how many, for how long, with how large messages. What gRPC's core enforces, before any of our code runs.

The names are those of `grpc/impl/channel_arg_names.h`; the core ignores a name that it does not know.
"""

import logging
import resource

from serve.config import ServeConfig
from serve.engines import IMAGE_BYTES

# A message is read whole before its images can be counted. Up to here a caller that sends too many is told our limit
# and how to go on; beyond it the transport refuses, in words of its own.
_MESSAGE_BYTES = 4 << 20

# What else a message with the largest picture may hold.
_AROUND_BYTES = 1 << 16

# From the connection to the end of the TLS handshake and HTTP/2's first frame; 120 s in the core as it comes.
_HANDSHAKE_MS = 10_000

# A peer that is silent for the first is asked whether it is there, and has the second to say so.
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 60_000, 20_000

# Clients may ask the same, idle ones too, this often; as it comes the core closes the connection of a client that asks
# more than every five minutes ("too_many_pings"), and load balancers' clients ask every ten to thirty seconds.
_LEAST_PING_INTERVAL_MS = 9_000

# GRPC_COMPRESS_NONE alone, as a set of bits. The core checks the size of a message after it has unpacked it: a message
# of 1 MB can fill 1 GB. Callers that compress are told UNIMPLEMENTED, and that "identity" is accepted.
_UNCOMPRESSED = 1


# Between the two the core ends calls at random; what is meant here is one limit.
_PENDING = ("grpc.server.max_pending_requests", "grpc.server.max_pending_requests_hard_limit")


# What grpcio logs, a traceback each time, of callers that leave and of headers that are no text. Callers could fill the
# disk with the one, and the other repeats what they sent, be it a secret.
_OF_CALLERS = ("ExecuteBatchError raised in core", "Invalid encoding on")


def quieten() -> None:
    """Keep out of the log what callers could fill it with."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(lambda record: not record.msg.startswith(_OF_CALLERS))


def channel_options(config: ServeConfig, *, shares_port: bool) -> list[tuple[str, int]]:
    """What the core is told; other processes of this server may listen on the same port."""
    pending = {} if config.max_pending_calls is None else dict.fromkeys(_PENDING, config.max_pending_calls)
    return list(
        {
            **pending,
            "grpc.max_receive_message_length": max(
                _MESSAGE_BYTES,
                2 * config.max_images_per_request * IMAGE_BYTES,
                config.max_picture_bytes + _AROUND_BYTES,
            ),
            "grpc.compression_enabled_algorithms_bitset": _UNCOMPRESSED,
            # One connection can never take all the calls that `max_calls` admits.
            "grpc.max_concurrent_streams": min(512, max(1, config.max_calls // 4)),
            "grpc.max_allowed_incoming_connections": config.max_connections or _most_connections(),
            "grpc.server_handshake_timeout_ms": _HANDSHAKE_MS,
            "grpc.keepalive_time_ms": _KEEPALIVE_MS,
            "grpc.keepalive_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.min_ping_interval_without_data_ms": _LEAST_PING_INTERVAL_MS,
            "grpc.max_connection_idle_ms": _ms(config.max_connection_idle_s),
            "grpc.max_connection_age_ms": _ms(config.max_connection_age_s),
            # By then every call but a stream has been answered or given up: its message had as long to arrive.
            "grpc.max_connection_age_grace_ms": _ms(2 * config.max_deadline_s),
            # Otherwise a second server on the same port would start and share the connections unseen.
            "grpc.so_reuseport": int(shares_port),
        }.items()
    )


def _most_connections() -> int:
    """Each takes a file descriptor; a quarter is left for everything else."""
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
