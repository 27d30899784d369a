"""Loads a gRPC method with h2load, which costs a few microseconds a request and so measures the server, not itself."""

import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measurement import Measurement, percentiles

_WARMUP_S = 1


@dataclass(frozen=True, kw_only=True)
class Load:
    """`connections` times `streams` callers, each sending its next request when the last one is answered."""

    connections: int
    streams: int


def measure(
    address: str,
    method: str,
    message: bytes,
    reply_bytes: int,
    load: Load,
    *,
    duration_s: int | None = None,
    requests: int | None = None,
) -> Measurement:
    """Call a unary method in a closed loop.

    Args:
        address: "HOST:PORT".
        method: "/package.Service/Method".
        message: The serialised request.
        reply_bytes: Size of a reply on the wire, its five bytes of frame included.
        load: How many callers.
        duration_s: Seconds measured, after a second of warm-up.
        requests: How many calls, instead of how long.

    Raises:
        RuntimeError: h2load is not installed or failed, or calls were not answered with a reply.
    """
    extent = [f"--requests={requests}"] if requests else [f"--duration={duration_s}", f"--warm-up-time={_WARMUP_S}"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        output = _run(address, method, frame(message), load, [*extent, f"--log-file={log}"])
        _check_replies(output, reply_bytes)
        # A line per request: its start, the HTTP status, its duration in microseconds.
        latencies_ms = np.loadtxt(log, usecols=2, ndmin=1) / 1e3
    return Measurement(
        answered=len(latencies_ms),
        answered_per_s=_number(r"finished in [\d.]+m?s, ([\d.]+) req/s", output),
        latency_ms=percentiles(latencies_ms),
    )


def measure_stream(
    address: str, method: str, message: bytes, reply_bytes: int, load: Load, *, messages: int, duration_s: int
) -> Measurement:
    """Call a streaming method in a closed loop, each call with so many messages; arguments and errors as above.

    There is no warm-up. Answers are counted by their bytes, so that calls count which have not ended.
    """
    output = _run(address, method, frame(message) * messages, load, [f"--duration={duration_s}"])
    answered = _check_replies(output, reply_bytes * messages) / reply_bytes
    return Measurement(answered=round(answered), answered_per_s=answered / duration_s)


def frame(message: bytes) -> bytes:
    """A message as gRPC sends it: a byte that says uncompressed, the length, the message."""
    return struct.pack(">BI", 0, len(message)) + message


def _run(address: str, method: str, body: bytes, load: Load, flags: list[str]) -> str:
    """What h2load printed."""
    if not shutil.which("h2load"):
        raise RuntimeError("h2load is not installed; `apt-get install nghttp2-client` brings it")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "body")
        data.write_bytes(body)
        words = ["h2load", *flags, f"--data={data}"]
        words += [f"--clients={load.connections}", f"--max-concurrent-streams={load.streams}"]
        words += ["--header=content-type: application/grpc", "--header=te: trailers", f"http://{address}{method}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"h2load ended with status {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout


def _check_replies(output: str, reply_bytes: int) -> float:
    """The bytes of replies, warm-up included.

    h2load takes a refused call for a success, since the HTTP status is 200; but a refusal carries no reply.
    """
    succeeded = _number(r"(\d+) succeeded", output)
    data_bytes = _number(r"\((\d+)\) data", output)
    if unanswered := sum(_number(rf"(\d+) {kind}", output) for kind in ("failed", "errored", "timeout")):
        raise RuntimeError(f"{unanswered:.0f} of {succeeded + unanswered:.0f} calls were not answered:\n{output}")
    if not data_bytes or data_bytes < 0.95 * reply_bytes * succeeded:
        raise RuntimeError(
            f"{data_bytes:.0f} bytes came back for {succeeded:.0f} calls, about {reply_bytes} a call were expected: "
            "the server refused some"
        )
    return data_bytes


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"h2load's output has no {pattern!r}:\n{text}")
    return float(found[1])
