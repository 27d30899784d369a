"""Encoded pictures over real sockets: their callers are answered or told why, and nobody else notices."""

import asyncio
import io
import re
import signal
import statistics
import struct
import time
import timeit
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import imaging
from clients import AsyncDigitClient, DigitClient, InvalidImages, ServerError, ServerUnavailable, TimedOut
from imaging.decode import FORMATS
from protos.digits.v1 import LOW_CONFIDENCE, digits_pb2, digits_pb2_grpc
from serve.errors import StartupError
from serve.process import ServerProcess, server_process
from tests.fakes import FakeEngine, answer_for
from tests.serve.conftest import Serving


def encoded(pixels: np.ndarray, name: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, name)
    return data.getvalue()


def one(seed: int = 0, name: str = "PNG") -> bytes:
    """White on black, elsewhere for each seed."""
    pixels = np.zeros((56, 56), np.uint8)
    pixels[12:44, 20 + seed : 26 + seed] = 255
    return encoded(pixels, name)


def claims(width: int, height: int) -> bytes:
    """The head of a PNG, and nothing behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")


NOISE = encoded(np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8))
BLANK = encoded(np.full((40, 40), 255, np.uint8))


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A few kilobytes that take a good part of a second to read."""
    return encoded(np.zeros((7000, 7000), np.uint8))


def workers(pid: int | None = None) -> list[psutil.Process]:
    """Processes that read pictures, started by this process or by another."""
    found = []
    for child in psutil.Process(pid).children(recursive=pid is not None):
        try:
            if "imaging.worker" in child.cmdline():
                found.append(child)
        except psutil.ZombieProcess:
            pass
    return found


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110, no event tells what another process does
            await asyncio.sleep(0.005)


async def held(client: AsyncDigitClient) -> psutil.Process:
    """The server's only process for pictures, stopped in its tracks."""
    await client.classify_pictures([one()])
    [process] = workers()
    process.suspend()
    return process


async def under_way(running: object, count: int) -> None:
    """Wait until the server has so many requests with pictures that are not read."""
    pictures = running.server._pictures  # type: ignore[attr-defined]
    await wait_for(lambda: len(pictures._under_way) == count)


# What is answered


@pytest.mark.parametrize("many", [False, True])
async def test_the_model_is_given_what_the_package_finds_in_a_picture_of_any_format(
    serving: Serving, many: bool
) -> None:
    pictures = [one(seed, name) for seed, name in enumerate(FORMATS)] + [BLANK]
    expected = [(index, digit) for index, data in enumerate(pictures) for digit in imaging.read(data, many=many)]
    engine = FakeEngine()
    async with serving(engine) as server, AsyncDigitClient(server.address) as client:
        answer = await client.classify_pictures(pictures, many=many, return_pixels=True, top_k=2)
        assert len(answer.predictions) == len(expected) == (len(pictures) - many)
        for found, (index, digit) in zip(answer.predictions, expected, strict=True):
            assert (found.image, found.box) == (index, digit.box)
            doubts = ("low_confidence",) if found.probability < LOW_CONFIDENCE else ()
            assert found.warnings == (*digit.warnings, *doubts)
            np.testing.assert_array_equal(found.pixels, digit.pixels)
            np.testing.assert_array_equal(found.probabilities, answer_for(digit.pixels[None, None])[0])
            assert found.top[0].digit == found.digit
        assert (imaging.Warning.BLANK in answer.predictions[-1].warnings) is not many
    np.testing.assert_array_equal(np.concatenate(engine.batches)[:, 0], [digit.pixels for _, digit in expected])


async def test_where_many_finds_no_digit_there_is_no_prediction_and_no_engine_call(serving: Serving) -> None:
    engine = FakeEngine()
    async with serving(engine) as server, AsyncDigitClient(server.address) as client:
        answer = await client.classify_pictures([BLANK], many=True)
    assert (answer.predictions, answer.model, engine.batches) == ((), "compact", [])


async def test_pixels_come_back_only_if_they_are_asked_for(serving: Serving) -> None:
    async with serving(FakeEngine()) as server, AsyncDigitClient(server.address) as client:
        assert (await client.classify_pictures([one()])).predictions[0].pixels is None


# What is refused


@pytest.mark.parametrize(("pictures", "top_k"), [([], 0), (b"one picture", 0), ([one()], 11)])
def test_what_is_no_request_is_refused_by_the_client(pictures: Any, top_k: int) -> None:
    with DigitClient("127.0.0.1:1") as client, pytest.raises(InvalidImages, match="was expected"):
        client.classify_pictures(pictures, top_k=top_k)


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ([one(), b"a letter"], "picture 1: no picture that can be read"),
        ([b""], "it is empty"),
        ([NOISE[:1500]], "cannot be read"),
        ([claims(50_000, 50_000)], "so many pixels"),
        ([one()] * 17, "encoded_images holds 17 pictures; at most 16 are accepted in one request"),
        ([one(), bytes(3001)], "picture 1 holds 3001 bytes; at most 3000 are accepted; scale it down"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_index_and_reason(
    serving: Serving, pictures: list[bytes], reason: str
) -> None:
    engine = FakeEngine()
    async with (
        serving(engine, max_picture_bytes=3000) as server,
        AsyncDigitClient(server.address) as client,
    ):
        with pytest.raises(InvalidImages, match=reason):
            await client.classify_pictures(pictures)
    assert not engine.batches


async def test_pixels_and_pictures_in_one_request_are_refused(serving: Serving) -> None:
    async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        request = digits_pb2.ClassifyRequest(pixels=bytes(784), encoded_images=[one()])
        with pytest.raises(grpc.aio.AioRpcError, match="one of the two was expected"):
            await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request)


async def test_a_picture_that_takes_too_long_is_refused_and_the_next_one_read(serving: Serving, slow: bytes) -> None:
    limit_s = round(min(timeit.repeat(lambda: imaging.read(slow), number=1, repeat=2)) / 3, 3)
    async with serving(FakeEngine(), max_picture_s=limit_s) as server, AsyncDigitClient(server.address) as client:
        with pytest.raises(InvalidImages, match=rf"was not read within {limit_s:g} s; scale it down"):
            await client.classify_pictures([slow], timeout_s=30)
        assert len((await client.classify_pictures([one()], timeout_s=30)).predictions) == 1


async def test_in_a_stream_a_bad_picture_is_refused_in_its_place(serving: Serving) -> None:
    requests = [digits_pb2.ClassifyRequest(encoded_images=[each]) for each in (one(), b"a letter", one(1))]
    requests.insert(1, digits_pb2.ClassifyRequest(pixels=bytes(784)))
    async with serving(FakeEngine()) as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = digits_pb2_grpc.DigitRecognizerStub(channel).ClassifyStream(iter(requests), timeout=30)
        answers = [each async for each in stream]
    assert [each.WhichOneof("result") for each in answers] == ["response", "response", "refusal", "response"]
    assert answers[2].refusal.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answers[2].refusal.message.startswith("no picture")


async def test_too_many_pictures_are_refused_at_once_and_told_when_to_come_back(serving: Serving) -> None:
    options = {"picture_workers": 1, "max_pictures_per_request": 1}
    async with (
        serving(FakeEngine(), **options) as server,
        AsyncDigitClient(server.address) as client,
        grpc.aio.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel,
    ):
        process = await held(client)
        waiting = [asyncio.ensure_future(client.classify_pictures([one()], timeout_s=30)) for _ in range(4)]
        await under_way(server, 4)
        with pytest.raises(grpc.aio.AioRpcError) as busy:
            await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(
                digits_pb2.ClassifyRequest(encoded_images=[one()])
            )
        assert busy.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(busy.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1
        assert (await client.classify(np.zeros((28, 28), np.uint8))).predictions, "pixels need not wait"
        process.resume()
        await asyncio.gather(*waiting)


async def test_a_process_that_is_killed_fails_its_request_only(serving: Serving) -> None:
    async with serving(FakeEngine(), picture_workers=1) as server, AsyncDigitClient(server.address) as client:
        process = await held(client)
        dying = asyncio.ensure_future(client.classify_pictures([one()], timeout_s=30))
        await under_way(server, 1)
        patient = asyncio.ensure_future(client.classify_pictures([one()], timeout_s=30))
        await under_way(server, 2)
        process.kill()
        with pytest.raises(ServerError, match="internal error; the server's log has the reason"):
            await dying
        assert len((await patient).predictions) == 1


async def test_whoever_leaves_or_runs_out_of_time_is_not_waited_for(serving: Serving) -> None:
    engine = FakeEngine()
    async with serving(engine, picture_workers=1) as server, AsyncDigitClient(server.address) as client:
        process = await held(client)
        engine.batches.clear()
        calls = [asyncio.ensure_future(client.classify_pictures([one(seed)], timeout_s=30)) for seed in range(4)]
        late = asyncio.ensure_future(client.classify_pictures([one()], timeout_s=0.3))
        await under_way(server, 5)
        for call in calls[:3]:
            call.cancel()
        with pytest.raises(TimedOut):
            await late
        await under_way(server, 1)
        process.resume()
        await calls[3]
        assert len(engine.batches) == 1


async def test_the_time_that_pictures_took_is_not_given_to_their_digits_again(serving: Serving) -> None:
    engine = FakeEngine()
    async with (
        serving(engine, picture_workers=1, max_deadline_s=3.0) as server,
        AsyncDigitClient(server.address) as client,
    ):
        process = await held(client)
        engine.hold()
        call = asyncio.ensure_future(client.classify_pictures([one()], timeout_s=30))
        await under_way(server, 1)
        await asyncio.sleep(1)
        process.resume()
        with pytest.raises(TimedOut, match=r"no answer within [01]\.\d+ s"):
            await call


# Servers that read no pictures


async def test_a_server_that_is_told_so_reads_no_pictures(serving: Serving) -> None:
    async with serving(FakeEngine(), picture_workers=0) as server, AsyncDigitClient(server.address) as client:
        with pytest.raises(ServerError, match=r"UNIMPLEMENTED: this server reads no pictures \(--picture-workers 0\)"):
            await client.classify_pictures([one()])


async def test_without_the_extra_callers_are_told_what_the_server_lacks(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL.py").write_text("raise ModuleNotFoundError(name='PIL')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with serving(FakeEngine()) as server, AsyncDigitClient(server.address) as client:
        with pytest.raises(
            ServerError, match=r"UNIMPLEMENTED: .* PIL is not installed; `pip install '\.\[pictures\]'`"
        ):
            await client.classify_pictures([one()], timeout_s=30)
        assert (await client.classify(np.zeros((28, 28), np.uint8))).predictions


# The end


async def test_a_drain_answers_pictures_that_are_being_read_and_those_that_wait(serving: Serving) -> None:
    async with (
        serving(FakeEngine(), picture_workers=1, grace_s=20.0) as server,
        AsyncDigitClient(server.address) as client,
        grpc.aio.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel,
    ):
        process = await held(client)
        accepted = [asyncio.ensure_future(client.classify_pictures([one(seed)], timeout_s=30)) for seed in range(2)]
        await under_way(server, 2)
        stop = asyncio.create_task(server.server.stop())
        await wait_for(lambda: server.server._pictures._draining)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(
                digits_pb2.ClassifyRequest(encoded_images=[one()])
            )
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stop.done()
        process.resume()
        assert [len((await call).predictions) for call in accepted] == [1, 1]
        assert await stop, "every accepted request was answered"
        assert not workers()


async def test_when_the_grace_is_over_pictures_are_given_up(serving: Serving) -> None:
    async with (
        serving(FakeEngine(), picture_workers=1, grace_s=0.05) as server,
        AsyncDigitClient(server.address) as client,
    ):
        await held(client)
        waiting = asyncio.ensure_future(client.classify_pictures([one()], timeout_s=30))
        await under_way(server, 1)
        assert not await server.server.stop()
        with pytest.raises(ServerUnavailable):
            await waiting
        assert not workers()


# Processes


@pytest.fixture
def real(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """Two front ends, each with a process for pictures of its own once it has some."""
    flags = ("--frontends", "2", "--metrics-port", "0", "--picture-workers", "2")
    with server_process(bundle, *flags, log=tmp_path / "log") as server:
        yield server


def connections(address: str) -> list[DigitClient]:
    """Enough for every front end to have some."""
    return [DigitClient(address, timeout_s=30) for _ in range(12)]


def test_every_front_end_reads_pictures_and_the_owner_counts_them(real: ServerProcess, tmp_path: Path) -> None:
    [url] = re.findall(r"metrics at (\S+)", (tmp_path / "log").read_text())
    clients = connections(real.address)
    answers = {tuple(client.classify_pictures([one()]).predictions[0].probabilities) for client in clients}
    with pytest.raises(InvalidImages):
        clients[0].classify_pictures([b"a letter"])
    assert len(answers) == 1
    assert len(workers(real.pid)) <= 2

    def counts() -> dict[str, float]:
        families = text_string_to_metric_families(urlopen(url, timeout=10).read().decode())
        return {
            sample.labels["result"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "digits_picture_seconds_count"
        }

    give_up = time.monotonic() + 20
    while counts() != {"read": 12, "refused": 1}:
        assert time.monotonic() < give_up, counts()
        time.sleep(0.02)
    for client in clients:
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_of_a_server_that_ends_with_pictures_under_way(
    bundle: Path, tmp_path: Path, slow: bytes, number: signal.Signals
) -> None:
    with suppress(StartupError), server_process(bundle, log=tmp_path / "log") as server:  # about SIGKILL's exit status
        with DigitClient(server.address, timeout_s=30) as client, ThreadPoolExecutor(2) as pool:
            client.classify_pictures([one(), one()])
            calls = [pool.submit(client.classify_pictures, [slow]) for _ in range(2)]
            processes = workers(server.pid)
            server.process.send_signal(number)
            ends = [type(call.exception()) for call in calls]
        psutil.wait_procs(processes, timeout=20)
    assert len(processes) == 2
    assert not any(process.is_running() for process in processes)
    assert set(ends) <= ({type(None), ServerUnavailable} if number is signal.SIGTERM else {ServerUnavailable})


def test_pictures_keep_no_memory_and_callers_with_pixels_do_not_wait_for_them(
    bundle: Path, tmp_path: Path, slow: bytes
) -> None:
    """A hundred refusals of 3 MB each, and meanwhile single images beside pictures that keep every process busy."""
    large = b"no picture" + bytes(3_000_000)
    pixels = np.zeros((28, 28), np.uint8)
    with server_process(bundle, log=tmp_path / "log") as server, DigitClient(server.address, timeout_s=30) as client:
        client.classify_pictures([one(), one()])
        before = psutil.Process(server.pid).memory_info().rss
        for _ in range(100):
            with pytest.raises(InvalidImages, match="no picture that can be read"):
                client.classify_pictures([large])
        grown = psutil.Process(server.pid).memory_info().rss - before
        assert grown < 60e6, f"{grown / 1e6:.0f} MB more than before"

        with ThreadPoolExecutor(4) as pool:
            started = time.perf_counter()
            reading = [pool.submit(client.classify_pictures, [slow]) for _ in range(4)]
            others_s = []
            while not all(each.done() for each in reading):
                begun = time.perf_counter()
                client.classify(pixels)
                others_s.append(time.perf_counter() - begun)
            reading_s = (time.perf_counter() - started) / 2  # two at a time
            assert [each.result().predictions[0].image for each in reading] == [0] * 4
        assert statistics.median(others_s) < reading_s / 10
