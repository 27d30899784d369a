"""HTTP/2 and gRPC by hand, for what no client library would send."""

import socket
import struct
import time
from collections.abc import Iterator

from benchmarks.h2load import frame as grpc_frame

# Kinds of frames, RFC 9113 section 6.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
# What each begins with: size in three bytes, kind, flags, stream.
HEAD = struct.Struct(">HBBBI")
MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

CLASSIFY = "/digits.v1.DigitRecognizer/Classify"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame, RFC 9113 section 4.1."""
    return HEAD.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def preface(**settings: int) -> bytes:
    """What a client begins with; a setting is given as `_NUMBER=VALUE`."""
    pairs = (struct.pack(">HI", int(name[1:]), value) for name, value in settings.items())
    return MAGIC + frame(SETTINGS, 0, 0, b"".join(pairs))


def headers(path: bytes | str = CLASSIFY, **more: bytes) -> bytes:
    """The header block of a gRPC call."""
    fields = {b":method": b"POST", b":scheme": b"http", b":authority": b"x"}
    fields[b":path"] = path.encode() if isinstance(path, str) else path
    fields |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    fields |= {name.replace("_", "-").encode(): value for name, value in more.items()}
    return b"".join(map(field, fields, fields.values()))


def call(stream: int, message: bytes, path: bytes | str = CLASSIFY) -> bytes:
    """A whole unary call with a message of up to 16 KB."""
    return frame(HEADERS, END_HEADERS, stream, headers(path)) + frame(DATA, END_STREAM, stream, grpc_frame(message))


def connect(address: str) -> socket.socket:
    """A connection on which nothing was said yet."""
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def frames(connection: socket.socket, timeout_s: float) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of what the server sends, until it closes or the time is over."""
    end = time.monotonic() + timeout_s
    received = b""
    while (rest_s := end - time.monotonic()) > 0:
        connection.settimeout(rest_s)
        try:
            chunk = connection.recv(1 << 16)
        except (TimeoutError, ConnectionError):
            return
        if not chunk:
            return
        received += chunk
        while len(received) >= 9 and len(received) >= 9 + (size := int.from_bytes(received[:3], "big")):
            kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
            payload, received = received[9 : 9 + size], received[9 + size :]
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            yield kind, flags, stream, payload


def is_closed(connection: socket.socket, timeout_s: float) -> bool:
    """Whether the server closes the connection in time."""
    end = time.monotonic() + timeout_s
    while (rest_s := end - time.monotonic()) > 0:
        connection.settimeout(rest_s)
        try:
            if not connection.recv(1 << 16):
                return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
    return False


def field(name: bytes, value: bytes) -> bytes:
    """A header field without indexing or compression, RFC 7541 section 6.2.2."""
    return b"\0" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    """RFC 7541 section 5.1, in seven bits."""
    if (rest := len(text) - 127) < 0:
        return bytes([len(text)])
    groups = [127]
    while rest >= 128:
        groups.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*groups, rest])
