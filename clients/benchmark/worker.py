"""`python -m clients.benchmark.worker`: one of the processes that drive the load, as `measure` orders over pipes.

A line of JSON on standard input orders a measurement. The worker answers with a line for every window when all of its
requests have ended, until the next line: `stop` ends the measurement; `interrupt` as well, and what was under way is
told, too. An empty line ends both. End of input ends the process.
"""

import asyncio
import base64
import contextlib
import gc
import json
import selectors
import sys
from pathlib import Path
from typing import Any

from clients import access
from clients.access import Tls
from clients.benchmark import schedule
from clients.benchmark.drive import Driver, Load
from clients.benchmark.recording import Recorder
from clients.channel import open_aio_channel


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=1 << 27)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ready", flush=True)
    while line := await orders.readline():
        await _measure(json.loads(line), orders)
        print(flush=True)


async def _measure(order: dict[str, Any], orders: asyncio.StreamReader) -> None:
    tls = _tls(order["tls"]) if order["tls"] else None
    recorder = Recorder(start=order["start"] + order["warmup_s"], window_s=order["window_s"], images=order["images"])
    # Repeated calls would hide refusals, and their waiting would count as latency.
    async with open_aio_channel(order["address"], tls, retry=False) as channel:
        # Connected before the first request is due. What cannot connect fails as the requests do.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(channel.channel_ready(), order["start"] - asyncio.get_running_loop().time())
        driver = Driver(channel, _load(order), recorder)
        # What fails in here ends the process, and with it the benchmark.
        async with asyncio.TaskGroup() as tasks:
            driving = tasks.create_task(driver.run())
            reporting = tasks.create_task(_report(recorder))
            word = await orders.readline()
            driver.stop()
            reporting.cancel()
            if word.strip() == b"interrupt":
                for window in recorder.interrupted():
                    print(window.encode())
                driving.cancel()


def _tls(plain: dict[str, Any]) -> Tls:
    cert, key = (Path(plain[name]) if plain[name] else None for name in ("cert", "key"))
    return Tls(root=Path(plain["root"]), cert=cert, key=key, server_name=plain["server_name"])


def _load(order: dict[str, Any]) -> Load:
    return Load(
        path=order["path"],
        protocol=order["protocol"],
        request=base64.b64decode(order["request"]),
        metadata=access.metadata(order["token"]) or None,
        callers=order["callers"],
        due=schedule.due(**order["due"]) if order["due"] else None,
        streams=order["streams"],
        start=order["start"],
        timeout_s=order["timeout_s"],
    )


async def _report(recorder: Recorder) -> None:
    while True:
        print((await recorder.next()).encode(), flush=True)


def main() -> None:
    """Serve orders until the input ends."""
    gc.freeze()
    # epoll waits for whole milliseconds, which would make requests late; select waits as long as it is told.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()
