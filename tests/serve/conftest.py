"""A whole server in this process, on a real socket, with an engine that the test controls."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import serve.model
from serve.app import Server
from serve.batcher import Batcher
from serve.config import ServeConfig
from serve.engines.selection import Selection
from tests.fakes import FakeEngine


@dataclass(frozen=True)
class Running:
    """A started server."""

    server: Server
    address: str


def batcher_of(server: Server) -> Batcher:
    """Of the one model that is served."""
    return server._models.find("", "").batcher


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serving(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Called with a fake engine and configuration, runs the server until the context ends, then stops it."""

    @asynccontextmanager
    async def start(engine: FakeEngine, **options: Any) -> AsyncIterator[Running]:
        chosen = Selection(file="model.onnx", accuracy=1.0, open=engine.open, slots=1, batch=4)
        monkeypatch.setattr(serve.model, "select", lambda _bundle, _engine: chosen)
        defaults = {"models": bundle, "port": 0, "slots": 1, "max_batch": 4, "grace_s": 5.0}
        server = Server(ServeConfig(**(defaults | options)))
        port = await server.start()
        try:
            yield Running(server, f"127.0.0.1:{port}")
        finally:
            engine.release()
            await server.stop()

    return start
