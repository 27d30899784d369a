"""CPU, memory and GPU of the processes that take part, and what the server's own metrics say."""

import asyncio
import contextlib
import math
import os
import re
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import psutil

from clients.errors import DigitError

_MOST_METRICS_BYTES = 8 << 20
_METRICS_TIMEOUT_S = 5.0

_GPU_FIGURES = ("utilization.gpu", "memory.used", "power.draw")
_GPU_INTERVAL_MS = 500

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What some processes used.

    Attributes:
        processes: How many they were.
        cores: CPU time by time: 1.0 is one core all of the time.
        resident_mb: Memory at the end, in megabytes; what they share is counted in each.
    """

    processes: int
    cores: float
    resident_mb: float


class Meter:
    """Counts what some processes, and those that they have started, use from now on."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._started = time.monotonic()
        self._used = self._cpu()

    def _cpu(self) -> dict[int, float]:
        used = {}
        for process in _family(self._pids):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
        return used

    def read(self) -> Usage | None:
        """What they used; None if there are none any more."""
        used = self._cpu()
        if not used:
            return None
        seconds = sum(each - self._used.get(pid, 0.0) for pid, each in used.items())
        resident = 0
        for process in _family(self._pids):
            with contextlib.suppress(psutil.Error):
                resident += process.memory_info().rss
        return Usage(
            processes=len(used), cores=seconds / (time.monotonic() - self._started), resident_mb=resident / 1e6
        )


def _family(pids: Sequence[int]) -> list[psutil.Process]:
    family: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            family |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return list(family.values())


def server_pids(address: str, pid: int | None) -> list[int]:
    """The server's processes: the one that is named, or those that listen on the port of this machine.

    Where several listen on one port, what has started them all is of the server, too.

    Raises:
        DigitError: There is no process of that number.
    """
    if pid is not None:
        if not psutil.pid_exists(pid):
            raise DigitError(f"--server-pid is {pid}; there is no such process")
        return [pid]
    host, _, port = address.rpartition(":")
    if host not in ("localhost", "[::1]") and not host.startswith("127."):
        return []
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # other people's processes, on some systems
        return []
    pids = sorted(
        {
            each.pid
            for each in connections
            if each.status == psutil.CONN_LISTEN and each.pid and each.laddr and each.laddr.port == int(port)
        }
    )
    parents = set()
    for each in pids:
        with contextlib.suppress(psutil.Error):
            parents.add(psutil.Process(each).ppid())
    ours = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    return [*pids, *parents] if len(pids) > 1 and len(parents) == 1 and not parents & ours else pids


@dataclass(frozen=True, kw_only=True)
class GpuUsage:
    """Means over a measurement of one NVIDIA GPU; NaN where it does not tell."""

    name: str
    utilization_percent: float
    memory_mb: float
    power_w: float


@contextlib.asynccontextmanager
async def watch_gpus() -> AsyncIterator[list[GpuUsage]]:
    """Asks `nvidia-smi`, where it is installed, twice a second; the list is filled on leaving."""
    found: list[GpuUsage] = []
    program = shutil.which("nvidia-smi")
    if program is None:
        yield found
        return
    process = await asyncio.create_subprocess_exec(
        program,
        f"--query-gpu=index,name,{','.join(_GPU_FIGURES)}",
        "--format=csv,noheader,nounits",
        f"--loop-ms={_GPU_INTERVAL_MS}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    reading = asyncio.create_task(process.communicate())
    try:
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        output, _ = await reading
        found += gpu_means(output.decode(errors="replace"))


def gpu_means(output: str) -> list[GpuUsage]:
    """The means of each GPU over what `nvidia-smi` has printed, a line for each at each time."""
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 2 + len(_GPU_FIGURES):
            rows.setdefault((cells[0], cells[1]), []).append([_number(cell) for cell in cells[2:]])
    usages = []
    for (_, name), figures in rows.items():
        utilization, memory_mib, power = (sum(column) / len(column) for column in zip(*figures, strict=True))
        usages.append(
            GpuUsage(name=name, utilization_percent=utilization, memory_mb=memory_mib * (1 << 20) / 1e6, power_w=power)
        )
    return usages


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # such as [N/A]
        return math.nan


def scrape(url: str) -> dict[str, float]:
    """The counters among Prometheus metrics, each summed over its labels.

    Raises:
        DigitError: There are none.
    """
    try:
        with urllib.request.urlopen(url, timeout=_METRICS_TIMEOUT_S) as response:
            text = response.read(_MOST_METRICS_BYTES).decode(errors="replace")
    except (OSError, ValueError) as error:
        raise DigitError(f"--metrics-url {url}: {error}") from error
    totals: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        if name.endswith(("_total", "_sum", "_count")):
            totals[name] = totals.get(name, 0.0) + _number(value)
    if not totals:
        raise DigitError(f"--metrics-url {url}: there are no counters; Prometheus' text format was expected")
    return totals


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By how much each counter that has moved has grown."""
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {name: value for name, value in grown.items() if value > 0}
