"""What the supervisor and its processes tell each other: JSON, and the descriptors of links, over a socket pair.

When one side's process ends, in whatever way, the other sees the end of the stream.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

_MOST_BYTES = 1 << 16
_MOST_FDS = 8


class Control:
    """One end. Messages that come are handed to `on_message` with their descriptors, on the event loop.

    Args:
        end: A socket of sequenced packets, one message each.
        on_message: Called with each message; descriptors are the receiver's to close.
        on_end: Called once when the other side is gone.
    """

    def __init__(
        self, end: socket.socket, *, on_message: Callable[[Any, Sequence[int]], None], on_end: Callable[[], None]
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._on_readable)

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send a message; who is gone, or has not read hundreds of them, gets none."""
        with suppress(OSError):
            socket.send_fds(self._socket, [json.dumps(message).encode()], fds)

    def close(self) -> None:
        """End the stream."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _on_readable(self) -> None:
        try:
            content, fds, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            content, fds = b"", []
        if not content:
            self.close()
            self._on_end()
            return
        self._on_message(json.loads(content), fds)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends; messages keep their boundaries."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
