"""Health as watchers see it. A context stands in for gRPC's where a watcher must be stuck in the middle of a write."""

import asyncio

import pytest
from grpc_health.v1 import health_pb2

from serve.rpc.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health


class Watcher:
    """The server's end of a watcher's stream; reads nothing while `reading` is not set."""

    def __init__(self, *, reading: bool) -> None:
        self.reading = asyncio.Event()
        self.told: asyncio.Queue[int] = asyncio.Queue()
        if reading:
            self.reading.set()

    async def write(self, response: health_pb2.HealthCheckResponse) -> None:
        await self.reading.wait()
        self.told.put_nowait(response.status)


@pytest.fixture
def health() -> Health:
    health = Health()
    health.replace({"": False, "model": False})
    return health


async def watch(health: Health, watcher: Watcher, service: str = "") -> "asyncio.Task[None]":
    task = asyncio.create_task(health.Watch(health_pb2.HealthCheckRequest(service=service), watcher))
    await asyncio.sleep(0)
    return task


async def test_a_watcher_that_does_not_read_keeps_nobody_from_the_news(health: Health) -> None:
    stuck, reader = Watcher(reading=False), Watcher(reading=True)
    tasks = [await watch(health, each) for each in (stuck, reader)]
    health.replace({"": True, "model": True})
    health.replace({"": False, "model": False})
    health.replace({"": True, "model": True})
    assert await asyncio.wait_for(reader.told.get(), 5) == NOT_SERVING
    assert await asyncio.wait_for(reader.told.get(), 5) == SERVING
    stuck.reading.set()
    assert await asyncio.wait_for(stuck.told.get(), 5) == NOT_SERVING
    assert await asyncio.wait_for(stuck.told.get(), 5) == SERVING
    for task in tasks:
        task.cancel()


async def test_a_watcher_is_told_changes_only(health: Health) -> None:
    watcher = Watcher(reading=True)
    task = await watch(health, watcher, "model")
    health.replace({"": False, "model": False})
    health.replace({"": True, "model": True})
    assert [await asyncio.wait_for(watcher.told.get(), 5) for _ in range(2)] == [NOT_SERVING, SERVING]
    assert watcher.told.empty()
    task.cancel()


async def test_a_watcher_of_an_unknown_service_is_told_so_and_kept(health: Health) -> None:
    watcher = Watcher(reading=True)
    task = await watch(health, watcher, "other")
    assert await asyncio.wait_for(watcher.told.get(), 5) == SERVICE_UNKNOWN
    assert not task.done()
    task.cancel()
