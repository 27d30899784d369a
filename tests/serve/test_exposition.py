"""The port that Prometheus scrapes, and scrapers that misbehave."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

import serve.exposition
from serve.errors import StartupError
from serve.exposition import Exposition
from tests.fakes import FakeEngine
from tests.serve.conftest import Serving

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("answer", "", registry=registry).set(42)
    return registry


@pytest.fixture
def port(registry: CollectorRegistry) -> Iterator[int]:
    exposition = Exposition(registry, "127.0.0.1", 0)
    yield exposition.start()
    exposition.stop()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return response.read().decode()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def test_the_registry_is_served(port: int) -> None:
    assert "answer 42.0" in scrape(port)


def test_who_connects_and_says_nothing_hinders_nobody(port: int) -> None:
    with connect(port), connect(port) as other:
        other.sendall(b"GET / HT")
        assert "answer 42.0" in scrape(port)


def test_who_says_nothing_for_long_is_hung_up_on(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.exposition, "_TIMEOUT_S", 0.1)
    with connect(port) as silent:
        assert silent.recv(1) == b""
    with connect(port) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nx: ")
        assert slow.recv(1) == b""


def test_only_so_many_are_heard_at_a_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    with ExitStack() as crowd:
        for _ in range(serve.exposition._SCRAPES):
            crowd.enter_context(connect(port))
        with connect(port) as one_too_many:
            assert one_too_many.recv(1) == b""
        assert threading.active_count() <= before + 2 * serve.exposition._SCRAPES


def test_after_the_stop_the_port_is_free(registry: CollectorRegistry) -> None:
    exposition = Exposition(registry, "127.0.0.1", 0)
    port = exposition.start()
    with connect(port):
        exposition.stop()
    again = Exposition(registry, "127.0.0.1", port)
    assert again.start() == port
    again.stop()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_a_port_that_is_taken_is_an_error_that_says_what_to_change(registry: CollectorRegistry, port: int) -> None:
    with pytest.raises(StartupError, match=rf"cannot listen for scrapes on 127\.0\.0\.1:{port}: .* --metrics-port"):
        Exposition(registry, "127.0.0.1", port).start()


def test_the_loopback_of_ipv6_serves_too(registry: CollectorRegistry) -> None:
    exposition = Exposition(registry, "[::1]", 0)
    port = exposition.start()
    with urllib.request.urlopen(f"http://[::1]:{port}/", timeout=10) as response:
        assert response.status == 200
    exposition.stop()


async def test_a_server_that_cannot_have_the_port_does_not_start(serving: Serving, port: int) -> None:
    engine = FakeEngine()
    with pytest.raises(StartupError, match="cannot listen for scrapes"):
        async with serving(engine, metrics_port=port):
            pass
    assert engine.thread is None
