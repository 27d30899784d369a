"""`python -m clients.benchmark loadgen`: MLPerf's load generator against a server. Its results are unofficial.

LoadGen decides when requests are sent and measures them; this program only sends them over gRPC. SingleStream: one
request after another. Server: Poisson arrivals, latency from the scheduled moment. Offline: everything at once, so many
calls under way as --concurrency says. Every sample is the same request.

LoadGen knows no failures: what fails is counted here, and makes the result invalid. A submission takes much longer
runs, an accuracy run and a review; none of this is one.
"""

import asyncio
import os
import re
import selectors
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc.aio
import tyro

from clients import access
from clients.access import AccessOptions
from clients.benchmark import calls, document
from clients.benchmark.calls import Target
from clients.benchmark.options import check_ranges
from clients.channel import open_aio_channel
from clients.errors import DigitError, from_status

Scenario = Literal["SingleStream", "Server", "Offline"]

_SAMPLES = 1024
_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """The fields' docstrings are the command line's help."""

    scenario: Scenario = "Server"
    """Which of MLPerf's scenarios."""

    address: str = "127.0.0.1:8001"
    """HOST:PORT of the server."""

    protocol: Literal["digits", "inference"] = "digits"
    """As of `python -m clients.benchmark`."""

    model: str = ""
    """Name of the model; empty for the server's default, where it has one."""

    images: int = 1
    """Images in each request; LoadGen counts it as one sample."""

    rate: float = 100.0
    """Server: samples a second. Offline: what is expected, which decides how many samples there are."""

    slo_ms: float = 15.0
    """Server: the 99th percentile that makes the result valid."""

    duration_s: float = 10.0
    """Seconds, at least. MLPerf's own rule is 600."""

    concurrency: int = 64
    """Offline: calls under way at any time."""

    logs: Path | None = None
    """Folder for LoadGen's own logs. Default: they are thrown away."""

    json: Path | None = None
    """File to write the result to."""

    access: tyro.conf.OmitArgPrefixes[AccessOptions] = field(default_factory=AccessOptions)

    def __post_init__(self) -> None:
        check_ranges(
            ("images", self.images, 1, 1 << 20),
            ("rate", self.rate, 0.1, 1e6),
            ("slo-ms", self.slo_ms, 0.001, 1e6),
            ("duration-s", self.duration_s, 0.1, 86400),
            ("concurrency", self.concurrency, 1, 4096),
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """What LoadGen made of it.

    Attributes:
        scenario: Which.
        official: Never.
        valid: By LoadGen's rules for a run of this length, and without failures.
        failures: By code.
        figures: LoadGen's summary, by its own names.
        recommendations: What it says should be changed.
    """

    scenario: Scenario
    official: bool = False
    valid: bool
    failures: dict[str, int]
    figures: dict[str, float]
    recommendations: list[str]


class _Sender:
    """Sends samples from an event loop of its own, as the benchmark does."""

    def __init__(self, options: Options, target: Target, loadgen: Any) -> None:
        self.failures: dict[str, int] = {}
        self._options = options
        self._target = target
        self._loadgen = loadgen
        self._metadata = access.metadata(options.access.token()) or None
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())  # see worker.main
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Connect.

        Raises:
            DigitError: The server has gone.
        """
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        try:
            asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()
        except grpc.aio.AioRpcError as error:
            raise from_status(self._options.address, error.code(), error.details()) from error

    async def _connect(self) -> None:
        options = self._options
        channel = open_aio_channel(options.address, options.access.tls(), retry=False)
        self._method: Any = channel.unary_unary(self._target.path, request_serializer=None, response_deserializer=None)
        self._free = asyncio.Semaphore(options.concurrency if options.scenario == "Offline" else 1 << 20)
        await self._method(self._target.request, timeout=_TIMEOUT_S, metadata=self._metadata)

    def issue(self, samples: list[Any]) -> None:
        """LoadGen's order to send some samples, on a thread of its own."""
        self._loop.call_soon_threadsafe(self._send, [sample.id for sample in samples])

    def _send(self, numbers: list[int]) -> None:
        for number in numbers:
            task = self._loop.create_task(self._call(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, number: int) -> None:
        async with self._free:
            try:
                await self._method(self._target.request, timeout=_TIMEOUT_S, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                self.failures[code] = self.failures.get(code, 0) + 1
        self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(number, 0, 0)])


def run(options: Options) -> Result:
    """Runs a scenario.

    Raises:
        DigitError: There is no such server, or LoadGen has told nothing.
    """
    import mlperf_loadgen as loadgen

    target = calls.find_target(
        options.address,
        options.protocol,
        model=options.model,
        images=options.images,
        streams=False,
        seed=0,
        tls=options.access.tls(),
        token=options.access.token(),
    )
    sender = _Sender(options, target, loadgen)
    sender.start()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        log = loadgen.LogSettings()
        log.enable_trace = False
        log.log_output.outdir = str(folder)
        log.log_output.copy_summary_to_stdout = False
        system = loadgen.ConstructSUT(sender.issue, lambda: None)
        library = loadgen.ConstructQSL(_SAMPLES, _SAMPLES, lambda _: None, lambda _: None)
        # On a thread, for LoadGen does not hear Ctrl-C.
        test = threading.Thread(
            target=loadgen.StartTestWithLogSettings,
            args=(system, library, _settings(options, loadgen), log),
            daemon=True,
        )
        test.start()
        test.join()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        summary = folder / "mlperf_log_summary.txt"
        text = summary.read_text() if summary.exists() else ""
    if "Result is" not in text:
        raise DigitError(f"LoadGen has told nothing that can be read: {text[:200] or 'no summary'}")
    return Result(
        scenario=options.scenario,
        valid="Result is : VALID" in text and not sender.failures,
        failures=sender.failures,
        figures=parse(text),
        recommendations=re.findall(r"^ \* (.+)$", text, re.MULTILINE),
    )


def _settings(options: Options, loadgen: Any) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, options.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * options.duration_s)
    settings.min_query_count = 1
    settings.server_target_qps = settings.offline_expected_qps = options.rate
    settings.server_target_latency_ns = round(1e6 * options.slo_ms)
    settings.single_stream_expected_latency_ns = 1_000_000
    return settings


def parse(summary: str) -> dict[str, float]:
    """The numbers in LoadGen's summary, by its own names."""
    pairs = re.findall(r"^([^:\n]+?)\s*:\s*(-?[\d.]+(?:e[+-]?\d+)?)$", summary, re.MULTILINE)
    return {name: float(value) for name, value in pairs}


def main(words: list[str]) -> int:
    """Exit status: 0 when the result is valid, 1 when it is not, 130 after Ctrl-C."""
    options = tyro.cli(Options, prog="python -m clients.benchmark loadgen", description=__doc__, args=words)
    try:
        result = run(options)
    except KeyboardInterrupt:
        # LoadGen's threads cannot be ended in any other way, and it tells nothing of an unfinished run.
        print("interrupted; LoadGen has no result of what it did not finish", file=sys.stderr, flush=True)
        os._exit(130)
    print(f"MLPerf LoadGen, {result.scenario}: UNOFFICIAL; {'valid' if result.valid else 'INVALID'}")
    for name, value in result.figures.items():
        if name.endswith("(ns)"):
            print(f"  {name.removesuffix(' (ns)'):40} {value / 1e6:12,.3f} ms")
        elif "per second" in name:
            print(f"  {name:40} {value:12,.1f}")
    for line in result.recommendations:
        print(f"  {line}")
    for code, count in result.failures.items():
        print(f"  failed: {code} {count:,}")
    if options.json is not None:
        document.save(options.json, result)
    return 0 if result.valid else 1
