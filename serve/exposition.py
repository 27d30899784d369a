"""The port that Prometheus scrapes: a small HTTP server on threads of its own."""

import contextlib
import socket
import socketserver
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from serve.errors import StartupError

# A scraper that says nothing, or not all, or does not read, is hung up on after so long.
_TIMEOUT_S = 10.0

# Scrapes at a time; who comes then is hung up on.
_SCRAPES = 8


class Exposition:
    """Serves a registry over HTTP, on any path.

    Lifecycle: construct, `start`, `stop`; both block for a moment.

    Args:
        registry: What is scraped.
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._registry = registry
        self._host = host
        self._port = port

    def start(self) -> int:
        """Start to accept.

        Returns:
            The port.

        Raises:
            StartupError: The port cannot be had.
        """
        try:
            [(family, *_, address), *_] = socket.getaddrinfo(
                self._host.strip("[]"), self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            self._server = _Server(family, address)
        except OSError as error:
            raise StartupError(
                f"cannot listen for scrapes on {self._host}:{self._port}: {error.strerror}; choose another "
                "--metrics-port (0 takes a free one) or --metrics-host"
            ) from error
        self._server.set_app(make_wsgi_app(self._registry))
        self._thread = threading.Thread(target=self._server.accept, name="metrics", daemon=True)
        self._thread.start()
        return self._server.server_port

    def stop(self) -> None:
        """Accept no more; a scrape that is under way ends by itself."""
        self._server.close()
        self._thread.join(1.0)


class _Server(ThreadingWSGIServer):
    # The library's 5 makes a sixth that comes at the same moment try again a second later.
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        self._closing = threading.Event()
        self._room = threading.BoundedSemaphore(_SCRAPES)
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        """As in the library, but the address's name is not looked up, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def accept(self) -> None:
        """Until it is closed. Not `serve_forever`, which wakes up twice a second."""
        while True:
            try:
                request, address = self.get_request()
            except OSError:
                # No descriptor is free, perhaps: that passes.
                if self._closing.wait(1.0):
                    return
                continue
            if self._room.acquire(blocking=False):
                self.process_request(request, address)
            else:
                self.shutdown_request(request)

    def close(self) -> None:
        self._closing.set()
        # On Linux this wakes the thread, elsewhere closing does.
        _hang_up(self.socket)
        self.server_close()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One scrape, on its thread."""
        give_up = threading.Timer(_TIMEOUT_S, _hang_up, [request])
        give_up.daemon = True
        give_up.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            give_up.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that left, or was hung up on: nothing to tell anybody."""


class _Request(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: scrapes are not worth a line."""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
