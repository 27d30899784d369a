"""Loads a gRPC method with h2load, which costs a few microseconds a request and so measures the server, not itself."""

import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}

_WARMUP_S = 1


@dataclass(frozen=True, kw_only=True)
class Load:
    """`connections` times `streams` callers, each sending its next request when the last one is answered."""

    connections: int
    streams: int

    @property
    def callers(self) -> int:
        """Requests under way at any time."""
        return self.connections * self.streams


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What h2load saw. Latencies are in milliseconds, by name of `PERCENTILES`."""

    requests: int
    requests_per_s: float
    latency_ms: dict[str, float]


def measure(address: str, method: str, message: bytes, reply_bytes: int, load: Load, *, duration_s: int) -> Measurement:
    """Call `method` of the server at `address` in a closed loop.

    Args:
        address: "HOST:PORT".
        method: "/package.Service/Method".
        message: The serialised request.
        reply_bytes: Size of a reply on the wire, its five bytes of frame included.
        load: How many callers.
        duration_s: Seconds measured, after a second of warm-up.

    Raises:
        RuntimeError: h2load is not installed or failed, or calls were not answered with a reply.
    """
    if not shutil.which("h2load"):
        raise RuntimeError("h2load is not installed; `apt-get install nghttp2-client` brings it")
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(frame(message))
        words = ["h2load", f"--duration={duration_s}", f"--warm-up-time={_WARMUP_S}", f"--log-file={log}"]
        words += [f"--clients={load.connections}", f"--max-concurrent-streams={load.streams}", f"--data={body}"]
        words += ["--header=content-type: application/grpc", "--header=te: trailers", f"http://{address}{method}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"h2load ended with status {done.returncode}: {done.stderr or done.stdout}")
        latencies_ms = _latencies_ms(log)
    _check_replies(done.stdout, reply_bytes)
    return Measurement(
        requests=len(latencies_ms),
        requests_per_s=_number(r"finished in [\d.]+s, ([\d.]+) req/s", done.stdout),
        latency_ms={name: float(np.percentile(latencies_ms, q)) for name, q in PERCENTILES.items()},
    )


def frame(message: bytes) -> bytes:
    """A message as gRPC sends it: a byte that says uncompressed, the length, the message."""
    return struct.pack(">BI", 0, len(message)) + message


def _latencies_ms(log: Path) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """h2load writes a line per request: its start, the HTTP status, its duration in microseconds."""
    return np.loadtxt(log, usecols=2, ndmin=1) / 1e3


def _check_replies(output: str, reply_bytes: int) -> None:
    """h2load takes a refused call for a success, since the HTTP status is 200; but a refusal carries no reply."""
    succeeded = _number(r"(\d+) succeeded", output)
    data_bytes = _number(r"\((\d+)\) data", output)
    if unanswered := sum(_number(rf"(\d+) {kind}", output) for kind in ("failed", "errored", "timeout")):
        raise RuntimeError(f"{unanswered:.0f} of {succeeded + unanswered:.0f} calls were not answered:\n{output}")
    if not succeeded or data_bytes / succeeded < 0.95 * reply_bytes:
        raise RuntimeError(
            f"{data_bytes:.0f} bytes came back for {succeeded:.0f} calls, about {reply_bytes} a call were expected: "
            "the server refused some"
        )


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"h2load's output has no {pattern!r}:\n{text}")
    return float(found[1])
