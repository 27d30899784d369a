"""Mutated requests and frames for a while: whatever arrives, the next good request is answered, and rightly.

`DIGITS_FUZZ_S=60` looks for longer; the seed is always the same, so that what it finds is found again.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from benchmarks import http2
from clients import DigitClient
from protos.digits.v1 import digits_pb2
from serve.process import ServerProcess, server_process
from tests.fakes import images

SECONDS = float(os.environ.get("DIGITS_FUZZ_S", "2")) / 2
CODES = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}

GOOD = [
    digits_pb2.ClassifyRequest(pixels=images(2).tobytes(), model="compact", version="1", top_k=3).SerializeToString(),
    digits_pb2.ClassifyRequest(pixels=images(1).tobytes()).SerializeToString(),
    digits_pb2.ClassifyRequest(model="compact", top_k=10).SerializeToString(),
]


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server, which must drain and end with status 0, and log next to nothing of all this."""
    log = tmp_path_factory.mktemp("server") / "log"
    with server_process(bundle, "--max-deadline-s", "1", log=log) as running:
        before = psutil.Process(running.pid).memory_info().rss
        yield running
        grown = psutil.Process(running.pid).memory_info().rss - before
        assert grown < 200e6, f"{grown / 1e6:.0f} MB more than before"
    assert log.stat().st_size < 5000, log.read_text()[:5000]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data` after one to four flips of a bit, cuts, repetitions and splices of good requests."""
    for _ in range(rng.randint(1, 4)):
        # Most of a request is pixels, where nothing can go wrong: every other mutation is near an end.
        at = rng.choice([rng.randint(0, len(data)), rng.randint(0, min(len(data), 12))])
        until = rng.randint(at, min(len(data), at + rng.choice([1, 8, 800])))
        match rng.randrange(4):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at]
            case 2:
                data = data[:until] + data[at:until] * rng.randint(1, 3) + data[until:]
            case _:
                other = rng.choice(GOOD)
                data = data[:at] + other[rng.randint(0, len(other)) :]
    return data


def test_after_any_mutated_requests_a_good_one_is_answered_as_before(server: ServerProcess) -> None:
    rng = random.Random(1)
    end = time.monotonic() + SECONDS
    with grpc.insecure_channel(server.address) as channel, DigitClient(server.address) as client:
        classify = channel.unary_unary(http2.CLASSIFY)
        expected = client.classify(images(2))
        while time.monotonic() < end:
            calls = [classify.future(mutated(rng, rng.choice(GOOD)), timeout=10) for _ in range(50)]
            assert {call.code() for call in calls} <= CODES
            answered = client.classify(images(2))
            for found, known in zip(answered.predictions, expected.predictions, strict=True):
                np.testing.assert_allclose(found.probabilities, known.probabilities, atol=1e-5)


def test_after_any_mutated_frames_a_good_request_is_answered(server: ServerProcess) -> None:
    rng = random.Random(2)
    end = time.monotonic() + SECONDS
    with DigitClient(server.address) as client:
        while time.monotonic() < end:
            for _ in range(10):
                with http2.connect(server.address) as connection, suppress(ConnectionError):
                    connection.sendall(http2.preface() + frames(rng))
                    for _ in http2.frames(connection, 0.005):
                        pass
            assert len(client.classify(images(2)).predictions) == 2


def frames(rng: random.Random) -> bytes:
    """Good calls and frames of any kind, spoilt in some places."""
    said = b""
    for stream in range(1, 2 * rng.randint(1, 8), 2):
        said += http2.call(stream, rng.choice(GOOD))
        payload = rng.randbytes(rng.choice([0, 4, 8, 40]))
        said += http2.frame(
            rng.randrange(12), rng.randrange(256), rng.choice([0, stream, rng.randrange(1 << 31)]), payload
        )
    return mutated(rng, said) if rng.random() < 0.7 else said
