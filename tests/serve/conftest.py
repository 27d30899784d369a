"""A whole server in this process, on a real socket, with an engine that the test controls."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import serve.local_model
from bundle import Bundle, publish
from bundle.probe import PROBE
from serve.app import Server
from serve.batcher import Batcher
from serve.config import ServeConfig
from serve.engines import OpenEngine
from serve.engines.selection import Selection
from tests.fakes import FakeEngine


@dataclass(frozen=True)
class Running:
    """A started server."""

    server: Server
    address: str


def batcher_of(server: Server) -> Batcher:
    """Of the one model that is served."""
    return server.backend.models.find("", "").batcher


def republish(source: Path, target: Path, *, leave_out: str = "", files: dict[str, bytes] = {}, **fields: Any) -> Path:  # noqa: B006
    """Publish a copy of a bundle with something changed; returns where."""
    bundle = Bundle.open(source)
    kept = {name: bundle.read(name) for name in bundle.manifest.files if name != leave_out}
    return publish(target, dataclasses.replace(bundle.manifest, **fields), kept | files).path


@pytest.fixture(scope="session")
def unprobed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle without its probe set, which no fake engine could answer."""
    return republish(bundle, tmp_path_factory.mktemp("unprobed") / "bundle", leave_out=PROBE)


def serve_with(monkeypatch: pytest.MonkeyPatch, open_engine: OpenEngine, *, batch: int) -> None:
    """Have models that are opened from now on use these engines, whatever their bundle holds."""
    chosen = Selection(file="model.onnx", accuracy=1.0, open=open_engine, slots=1, batch=batch)
    monkeypatch.setattr(serve.local_model, "select", lambda _bundle, _engine: chosen)


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serving(unprobed: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Called with a fake engine and configuration, runs the server until the context ends, then stops it."""

    @asynccontextmanager
    async def start(engine: FakeEngine, **options: Any) -> AsyncIterator[Running]:
        serve_with(monkeypatch, engine.open, batch=4)
        defaults = {"models": unprobed, "port": 0, "slots": 1, "max_batch": 4, "grace_s": 5.0}
        server = Server(ServeConfig(**(defaults | options)))
        port = await server.start()
        try:
            yield Running(server, f"127.0.0.1:{port}")
        finally:
            engine.release()
            await server.stop()

    return start
