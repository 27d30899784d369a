"""Windows: which are complete, what they hold, and how they are told."""

import asyncio

import pytest

from clients.benchmark.calls import Split
from clients.benchmark.recording import Recorder
from clients.benchmark.tally import Tally

WINDOW_S = 0.01


@pytest.fixture
async def recorder() -> Recorder:
    return Recorder(start=asyncio.get_running_loop().time(), window_s=WINDOW_S, images=1)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_window_is_told_when_its_last_request_has_ended(recorder):
    start = now()
    first, second = recorder.begin(start), recorder.begin(start)
    telling = asyncio.create_task(recorder.next())
    await asyncio.sleep(2 * WINDOW_S)
    recorder.answer(first, start, start, start, None)
    await asyncio.sleep(0)
    assert not telling.done()
    recorder.fail(second, "UNAVAILABLE", "away")
    window = await telling
    assert (window.due, window.latency.count) == (2, 1)
    assert (window.errors, window.reasons) == ({"UNAVAILABLE": 1}, {"UNAVAILABLE": "away"})


async def test_a_window_is_not_told_while_requests_that_were_due_in_it_are_still_to_be_sent(recorder):
    start = now()
    recorder.expect(start)
    telling = asyncio.create_task(recorder.next())
    await asyncio.sleep(2 * WINDOW_S)
    assert not telling.done()
    number = recorder.begin(start)
    recorder.expect(start + 1.5 * WINDOW_S)
    await asyncio.sleep(0)
    assert not telling.done()
    recorder.answer(number, start, start, now(), None)
    assert (await telling).due == 1


async def test_windows_of_an_interrupted_measurement_are_told_with_what_is_under_way_and_the_silent_ones(recorder):
    start = now()
    recorder.begin(start)
    await asyncio.sleep(2.5 * WINDOW_S)
    first, second, *_, last = recorder.interrupted()
    assert first.errors == {"INTERRUPTED": 1}
    assert (second.due, second.seconds) == (0, WINDOW_S)
    assert 0 < last.seconds <= WINDOW_S


async def test_a_share_of_an_engine_call_however_small_is_not_lost(recorder):
    start = now()
    recorder.answer(recorder.begin(start), start, start, start, Split(queue_s=0.1, compute_s=0.2, batch=4096))
    tally = Tally(is_open=False)
    tally.add([(await recorder.next()).encode()])
    assert tally.split().mean_batch == 4096


async def test_what_several_processes_tell_of_a_window_adds_up(recorder):
    start = now()
    for latency_s in (0.001, 0.002):
        recorder.answer(recorder.begin(start), start, start, start + latency_s, None)
    recorder.fail(recorder.begin(start), "UNAVAILABLE")
    line = (await recorder.next()).encode()
    tally = Tally(is_open=True)
    tally.add([line, line])
    tally.add([line])
    assert [window.due for window in tally.windows] == [6, 3]
    assert (tally.whole.due, tally.whole.latency.count, tally.whole.errors) == (9, 6, {"UNAVAILABLE": 3})
    assert tally.whole.seconds == pytest.approx(2 * WINDOW_S)
