"""Pictures of strangers are read in processes that may hang, die or be stuffed: nobody else notices."""

import asyncio
import gc
import io
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import imaging
from imaging import PictureError
from imaging.errors import PoolFull, WorkerLost
from imaging.messages import read_digits, write_digits
from imaging.pool import Pool


def picture(seed: int = 0, side: int = 28) -> bytes:
    """A PNG with a bar, elsewhere for each seed; with none if that is negative."""
    pixels = np.zeros((side, side), np.uint8)
    if seed >= 0:
        pixels[side // 4 : -side // 4, 4 + seed : 8 + seed] = 255
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


BLANK = picture(-1)


class Observed(Pool):
    """A pool that writes down what it did, one worker unless told otherwise."""

    def __init__(self, *, workers: int = 1, max_pictures: int = 8, max_picture_s: float = 20.0) -> None:
        self.results: list[str] = []
        super().__init__(
            workers=workers,
            max_pictures=max_pictures,
            max_picture_s=max_picture_s,
            observe=lambda result, _: self.results.append(result),
        )

    def processes(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if "imaging.worker" in child.cmdline()]

    async def hold(self) -> psutil.Process:
        """Its only process, started if need be, and stopped in its tracks."""
        await self.read([picture()])
        self.results.clear()
        [process] = self.processes()
        process.suspend()
        return process


@asynccontextmanager
async def opened(pool: Observed) -> AsyncIterator[Observed]:
    """Closed in the end, when no process may be left."""
    try:
        yield pool
    finally:
        processes = pool.processes()
        await pool.close()
        assert not any(process.is_running() for process in processes)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def same(found: tuple[imaging.Digit, ...], expected: tuple[imaging.Digit, ...]) -> bool:
    return write_digits(found) == write_digits(expected)


async def test_a_pool_reads_what_the_package_reads_each_picture_in_its_place() -> None:
    pictures = [picture(seed) for seed in range(8)]
    async with opened(Observed(workers=2)) as pool:
        assert not pool.processes(), "there were no pictures yet"
        found = await pool.read(pictures)
        assert len(pool.processes()) == 2
    assert all(same(each, imaging.read(data)) for each, data in zip(found, pictures, strict=True))
    assert pool.results == ["read"] * 8


def test_digits_survive_the_way_between_processes_and_nothing_else_is_taken_for_them() -> None:
    digits = (*imaging.read(picture()), *imaging.read(BLANK))
    found = read_digits(write_digits(digits))
    assert [(each.box, each.warnings) for each in found] == [(each.box, each.warnings) for each in digits]
    np.testing.assert_array_equal([each.pixels for each in found], [each.pixels for each in digits])
    assert read_digits(write_digits(())) == ()
    with pytest.raises(struct.error):
        read_digits(write_digits(digits)[:-1])


async def test_a_process_that_can_open_nothing_reads_every_mode() -> None:
    colours = Image.open(io.BytesIO(picture())).convert("RGB")
    pictures = []
    for mode, kind in (("1", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("LAB", "TIFF")):
        data = io.BytesIO()
        colours.convert(mode).save(data, kind)
        pictures.append(data.getvalue())
    async with opened(Observed()) as pool:
        found = await pool.read(pictures)
    assert all(same(each, imaging.read(data)) for each, data in zip(found, pictures, strict=True))


async def test_a_picture_that_cannot_be_read_is_named_and_costs_no_process() -> None:
    async with opened(Observed()) as pool:
        with pytest.raises(PictureError, match="picture 1: no picture that can be read"):
            await pool.read([picture(), b"a letter"])
        before = pool.processes()
        assert len(await pool.read([picture()])) == 1
        assert pool.processes() == before


async def test_a_picture_that_hangs_is_given_up_and_its_process_replaced() -> None:
    async with opened(Observed(max_picture_s=0.2)) as pool:
        hung = await pool.hold()
        with pytest.raises(PictureError, match=r"was not read within 0\.2 s; scale it down"):
            await pool.read([picture()])
        assert not hung.is_running()
        assert same((await pool.read([picture(1)]))[0], imaging.read(picture(1)))
        assert pool.results == ["too_slow", "read"]


async def test_a_process_that_dies_fails_its_picture_only() -> None:
    async with opened(Observed()) as pool:
        held = await pool.hold()
        dying, waiting = (asyncio.ensure_future(pool.read([picture(seed)])) for seed in (0, 1))
        await settle()
        held.kill()
        with pytest.raises(WorkerLost, match="ended with status -9"):
            await dying
        assert same((await waiting)[0], imaging.read(picture(1)))
        assert pool.results == ["failed", "read"]


async def test_what_takes_too_much_memory_is_refused() -> None:
    async with opened(Observed()) as pool:
        await pool.read([picture()])
        [process] = pool.processes()
        most = process.memory_info().vms + (8 << 20)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))
        with pytest.raises(PictureError, match="takes too much memory to read; scale it down"):
            await pool.read([picture(side=6000)])
        assert len(await pool.read([picture()])) == 1


async def test_too_many_pictures_are_refused_until_there_is_room_again() -> None:
    async with opened(Observed(max_pictures=3)) as pool:
        held = await pool.hold()
        waiting = [asyncio.ensure_future(pool.read([picture(seed)])) for seed in range(3)]
        await settle()
        with pytest.raises(PoolFull, match="3 pictures wait, and 3 may") as full:
            await pool.read([picture()])
        assert full.value.retry_after_s > 0
        held.resume()
        await asyncio.gather(*waiting)
        with pytest.raises(PoolFull):
            await pool.read([picture()] * 4)
        assert len(await pool.read([picture()] * 3)) == 3


async def test_nothing_is_read_for_a_caller_that_has_gone_and_nobody_gets_its_answer() -> None:
    async with opened(Observed()) as pool:
        held = await pool.hold()
        inside, waiting, patient = (asyncio.ensure_future(pool.read([picture(seed)])) for seed in range(3))
        await settle()
        inside.cancel()
        waiting.cancel()
        await asyncio.wait({inside, waiting})
        held.resume()
        assert same((await patient)[0], imaging.read(picture(2)))
        assert pool.processes() == [held]
        assert pool.results == ["read", "read"], "the one that was inside, and the patient caller's"


async def test_a_picture_that_cannot_be_read_leaves_those_of_its_request_unread() -> None:
    async with opened(Observed()) as pool:
        with pytest.raises(PictureError):
            await pool.read([b"", *[picture()] * 7])
        await pool.read([picture()])
        assert pool.results == ["refused", *["read"] * pool.results.count("read")]
        assert pool.results.count("read") <= 2


async def test_what_becomes_of_a_picture_whose_caller_has_gone_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(Observed()) as pool:
        held = await pool.hold()
        gone = asyncio.ensure_future(pool.read([b"a letter"]))
        await settle()
        gone.cancel()
        held.resume()
        await pool.read([picture()])
        assert pool.results == ["refused", "read"]
    gc.collect()
    assert not caplog.records


async def test_whoever_waits_for_a_pool_that_closes_is_told() -> None:
    async with opened(Observed()) as pool:
        await pool.hold()
        inside, waiting = (asyncio.ensure_future(pool.read([picture(seed)])) for seed in range(2))
        await settle()
        await pool.close()
        for caller in (inside, waiting):
            with pytest.raises(WorkerLost, match="closed"):
                await caller


async def test_a_library_that_is_missing_is_named_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PIL.py").write_text("raise ModuleNotFoundError(name='PIL')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with opened(Observed()) as pool:
        for _ in range(2):
            with pytest.raises(ModuleNotFoundError, match="PIL is not installed"):
                await pool.read([picture()])
        assert not pool.processes()


async def test_why_a_process_cannot_begin_is_told_and_the_next_picture_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "PIL.py").write_text("raise RuntimeError('a broken installation')")
    async with opened(Observed()) as pool:
        with monkeypatch.context() as broken:
            broken.setenv("PYTHONPATH", str(tmp_path))
            with pytest.raises(WorkerLost, match="a broken installation"):
                await pool.read([picture()])
        assert len(await pool.read([picture()])) == 1


async def test_a_process_holds_nothing_of_the_server_and_can_get_hold_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIGITS_TOKEN", "a secret")
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    async with opened(Observed()) as pool:
        await pool.read([picture()])
        [process] = pool.processes()
        ours = os.fstat(read_end).st_ino
        assert ours not in {os.stat(fd).st_ino for fd in os.scandir(f"/proc/{process.pid}/fd")}
        assert not process.net_connections()
        assert "DIGITS_TOKEN" not in process.environ()
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (0, 0)
        assert resource.prlimit(process.pid, resource.RLIMIT_AS)[1] == 2 << 30
        assert process.num_threads() == 1
    os.close(read_end)
    os.close(write_end)


async def test_whoever_ends_all_processes_of_a_server_lets_it_have_what_it_still_waits_for() -> None:
    async with opened(Observed()) as pool:
        await pool.read([picture()])
        [process] = pool.processes()
        process.send_signal(signal.SIGTERM)
        assert len(await pool.read([picture()])) == 1
        assert pool.processes() == [process]


def test_a_process_is_started_without_a_plain_fork() -> None:
    """Else handlers of libraries with threads run in the child; gRPC's may wait there for a lock that nobody holds."""
    program = """if True:
        import ctypes, os, uvloop
        from imaging.pool import Pool

        forks = []
        handler = ctypes.CFUNCTYPE(None)(lambda: forks.append("fork"))
        assert ctypes.CDLL(None).__register_atfork(handler, None, None, None) == 0
        if os.fork() == 0:
            os._exit(0)
        assert forks.pop() == "fork"

        async def main():
            pool = Pool(workers=1, max_pictures=1, max_picture_s=20.0)
            assert len(await pool.read([bytes.fromhex("PICTURE")])) == 1
            await pool.close()

        uvloop.run(main())
        assert not forks
    """
    run = [sys.executable, "-c", program.replace("PICTURE", picture().hex())]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
