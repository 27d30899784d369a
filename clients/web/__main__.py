"""`python -m clients.web`: a page to draw digits on, which a digit server recognises as they are drawn."""

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from dataclasses import dataclass, field

import tyro

from clients.access import AccessOptions
from clients.aio import AsyncDigitClient
from clients.calls import DEFAULT_TIMEOUT_S
from clients.errors import DigitError

# More than one page with its six connections needs; what comes beyond is refused with 503.
_MAX_CONNECTIONS = 128

# Pictures that are read at the same time, and seconds after which one is given up.
_PICTURE_WORKERS = 2
_MAX_PICTURE_S = 10.0

_GRACE_S = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    address: str = "127.0.0.1:8001"
    """HOST:PORT of the digit server."""

    host: str = "127.0.0.1"
    """Where the page is served. 0.0.0.0 lets phones in the same network open it, and everybody else there."""

    port: int = 8080
    """Port of the page; 0 takes a free one."""

    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds after which the digit server is given up for an answer."""

    access: tyro.conf.OmitArgPrefixes[AccessOptions] = field(default_factory=AccessOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port is {self.port}; 0 to 65535 was expected")


async def serve(options: Options) -> None:
    """Serve the page until a signal ends it.

    Raises:
        DigitError: The port cannot be had, a file of the access options not be read, or a library is missing.
    """
    try:
        import uvicorn

        from clients.web.app import MAX_PICTURES, build_app
        from clients.web.load import LoadReader
        from clients.web.security import HEADERS
        from imaging.pool import Pool
    except ModuleNotFoundError as error:
        raise DigitError(f"{error.name} is not installed; `pip install '.[web]'` brings it") from error

    tls, token = options.access.tls(), options.access.token()
    with listen(options.host, options.port) as listener:
        pool = Pool(workers=_PICTURE_WORKERS, max_pictures=MAX_PICTURES, max_picture_s=_MAX_PICTURE_S)
        async with (
            AsyncDigitClient(options.address, timeout_s=options.timeout_s, tls=tls, token=token) as client,
            LoadReader(options.address, tls=tls, token=token) as load,
        ):
            config = uvicorn.Config(
                build_app(client=client, load=load, read=pool.read, name=options.host),
                access_log=False,
                headers=list(HEADERS.items()),
                lifespan="off",
                limit_concurrency=_MAX_CONNECTIONS,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
                ws="none",
            )
            server = uvicorn.Server(config)

            def stop(number: int, frame: object) -> None:
                server.should_exit = True

            # Uvicorn raises a signal that has ended it once more, for whoever handled it before.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            host = "localhost" if options.host in ("0.0.0.0", "::") else options.host
            print(f"ready http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}", flush=True)
            try:
                await server.serve(sockets=[listener])
            finally:
                await pool.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on.

    Raises:
        DigitError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DigitError(
                f"port {port} of {host} is taken; name another with --port, or 0 for a free one"
            ) from error
        raise DigitError(f"{host}:{port} cannot be listened at: {error.strerror}") from error


def main() -> int:
    """Exit status: 0 when a signal ended it, 1 when it could not be started."""
    options = tyro.cli(Options, prog="python -m clients.web", description=__doc__)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(options))
    except DigitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
