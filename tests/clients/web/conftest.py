"""The page before a real server, and before servers and readers of pictures that do as they are told."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from clients import AsyncDigitClient
from clients.web.app import build_app
from clients.web.load import LoadReader
from imaging import Digit
from serve.process import ServerProcess, module_process, server_process

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "clients/examples"
CHAMPION = ROOT / "pretrained/champion"


@pytest.fixture(scope="session")
def champion(tmp_path_factory) -> Iterator[str]:
    """Address of a server of the committed network, for all tests of the page."""
    # Measured beside other tests, single images may seem to be served best.
    with server_process(CHAMPION, "--max-batch", "16", log=tmp_path_factory.mktemp("champion") / "log") as server:
        yield server.address


@pytest.fixture(scope="session")
def page_process(tmp_path_factory) -> Callable[..., AbstractContextManager[ServerProcess]]:
    """`with page_process(address) as page:` runs `python -m clients.web` on a free port; `page.address` is its URL.

    On leaving it gets SIGTERM, and fails the test unless it ends with status 0 and has nothing to complain of.
    """

    @contextmanager
    def run(address: str, *flags: str) -> Iterator[ServerProcess]:
        log = tmp_path_factory.mktemp("page") / "log"
        with module_process("clients.web", "--address", address, "--port", "0", *flags, log=log) as page:
            yield page
        # gRPC's core tells when a digit server closes a connection because nobody draws.
        assert [line for line in log.read_text().splitlines() if "connection idle" not in line] == []

    return run


@pytest.fixture(scope="session")
def url(champion, page_process) -> Iterator[str]:
    """Where the page of that server is."""
    with page_process(champion) as page:
        yield page.address


@pytest.fixture
def http(url) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def page_with() -> Callable[..., AbstractContextManager[str]]:
    """`with page_with(read, address) as url:` serves the page in this process; `read` is a coroutine of the test's."""

    @contextmanager
    def serve(read: Callable[..., Awaitable[tuple[Digit, ...]]], address: str) -> Iterator[str]:
        async def read_all(pictures: Sequence[bytes], *, many: bool) -> list[tuple[Digit, ...]]:
            return [await read(each, many=many) for each in pictures]

        started: list[uvicorn.Server] = []
        ready = threading.Event()

        class Server(uvicorn.Server):
            async def startup(self, sockets=None) -> None:
                await super().startup(sockets)
                started.append(self)
                ready.set()

        async def run() -> None:
            async with AsyncDigitClient(address) as client, LoadReader(address) as load:
                app = build_app(client=client, load=load, read=read_all, name="127.0.0.1")
                await Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none")).serve()

        thread = threading.Thread(target=asyncio.run, args=(run(),))
        thread.start()
        assert ready.wait(20), "the page's server did not start"
        with contextlib.ExitStack() as stack:
            stack.callback(thread.join)
            stack.callback(setattr, started[0], "should_exit", True)
            yield f"http://127.0.0.1:{started[0].servers[0].sockets[0].getsockname()[1]}"

    return serve
