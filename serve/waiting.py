"""Waiting for one thing while another may end the wait."""

import asyncio
from typing import Any


async def wait_unless(event: asyncio.Event, future: "asyncio.Future[Any]", *, timeout_s: float | None = None) -> bool:
    """Wait until a future is done, but no longer than until an event is set, or some seconds have passed.

    Returns:
        Whether it is done. If not, it goes on: what becomes of it is the caller's to decide.
    """
    interrupted = asyncio.ensure_future(event.wait())
    await asyncio.wait({future, interrupted}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    interrupted.cancel()
    return future.done()
