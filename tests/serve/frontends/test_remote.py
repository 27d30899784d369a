"""Front end and owner on two ends of a real link, in one process, around an engine that the test controls."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from serve.batcher import Answer, Batcher
from serve.config import ServeConfig
from serve.errors import DeadlineUnreachable, EngineFault, LoadFailed, QueueFull, ServeError, Unavailable, UnknownModel
from serve.frontends import messages
from serve.frontends.link import Link, ring_bytes
from serve.frontends.owner import Owner
from serve.frontends.remote import Remote
from tests.fakes import FakeEngine, answer_for, images
from tests.serve.conftest import serve_with


@dataclass
class Linked:
    """An owner and a front end that are linked."""

    owner: Owner
    remote: Remote
    batcher: Batcher
    states: list[Any]


Linking: TypeAlias = Callable[..., AbstractAsyncContextManager[Linked]]


@pytest.fixture
def linked(unprobed: Path, monkeypatch: pytest.MonkeyPatch) -> Linking:
    @asynccontextmanager
    async def start(engine: FakeEngine, **options: Any) -> AsyncIterator[Linked]:
        serve_with(monkeypatch, engine.open, batch=8)
        defaults = {"models": unprobed, "queue_images": 64, "max_images_per_request": 64, "slots": 1, "max_batch": 8}
        config = ServeConfig(**(defaults | options))
        owner = Owner(config, on_stuck=lambda frontend: pytest.fail(f"front end {frontend} was taken for stuck"))
        await owner.start()
        states: list[Any] = []
        remote = Remote(ring_bytes(ServeConfig(queue_images=1024)), states.append)
        theirs = Link.create(ServeConfig(queue_images=1024))
        remote.link(Link(*map(os.dup, theirs.fds)))
        owner.link(0, theirs)
        await settle()
        try:
            yield Linked(owner, remote, owner._backend.models.find("", "").batcher, states)
        finally:
            engine.release()
            remote.unlink()
            owner.unlink(0)
            await owner.stop(asyncio.Event())

    return start


async def settle() -> None:
    """Messages that are under way arrive."""
    for _ in range(20):
        await asyncio.sleep(0)


async def hold_engine(engine: FakeEngine, both: Linked) -> "asyncio.Future[Answer]":
    """Keep the engine busy with a first caller, so that whoever comes next has to wait."""
    engine.hold()
    first = asyncio.ensure_future(both.remote.submit(0, images(1), soon()))
    await asyncio.to_thread(engine.wait_until_inside)
    return first


def soon() -> float:
    return time.monotonic() + 30


async def test_everybody_gets_the_answer_to_their_own_images(linked: Linking) -> None:
    async with linked(FakeEngine()) as both:
        sent = [images(1 + number % 20, seed=number) for number in range(60)]
        # A few at a time, so that the queue has room for all.
        for start in range(0, len(sent), 3):
            group = sent[start : start + 3]
            answers = await asyncio.gather(*(both.remote.submit(0, pixels, soon()) for pixels in group))
            for pixels, answer in zip(group, answers, strict=True):
                np.testing.assert_array_equal(answer.probabilities, answer_for(pixels))
                assert answer.batch_size <= 8
                assert 0 <= answer.queue_s < 5 > answer.compute_s
        assert both.batcher.counts.answered == len(sent)


async def test_the_models_are_told_at_once_and_after_a_loss_there_are_none(linked: Linking) -> None:
    async with linked(FakeEngine()) as both:
        [state] = both.states
        assert [each["description"]["name"] for each in state["models"]] == ["compact"]
        assert state["health"] == {"": True, "compact": True}
        both.remote.unlink()
        assert both.states[1:] == [None]


async def test_errors_keep_their_class_their_words_and_when_to_come_back(linked: Linking) -> None:
    def fail(_: object) -> np.ndarray:
        raise RuntimeError("broken")

    engine = FakeEngine()
    async with linked(engine) as both:
        engine.misbehave = [fail]
        with pytest.raises(EngineFault, match="broken"):
            await both.remote.submit(0, images(1), soon())
        engine.wait_until_inside()  # it was
        inside = await hold_engine(engine, both)
        waiting = asyncio.ensure_future(both.remote.submit(0, images(60), soon()))
        await settle()
        with pytest.raises(QueueFull, match="60 of at most 64 images") as full:
            await both.remote.submit(0, images(5), soon())
        assert full.value.retry_after_s > 0
        engine.release()
        await asyncio.gather(inside, waiting)


async def test_a_deadline_that_cannot_be_met_is_refused_by_the_owner(linked: Linking) -> None:
    async with linked(FakeEngine()) as both:
        both.batcher._engine_time.observe(8, 10.0)
        with pytest.raises(DeadlineUnreachable):
            await both.remote.submit(0, images(8), time.monotonic() + 1)


async def test_who_has_gone_leaves_the_queue_and_is_counted(linked: Linking) -> None:
    engine = FakeEngine()
    async with linked(engine) as both:
        inside = await hold_engine(engine, both)
        gone = asyncio.ensure_future(both.remote.submit(0, images(2, seed=1), soon()))
        await settle()
        assert both.batcher._queue.images == 2
        gone.cancel()
        await settle()
        assert both.batcher._queue.images == 0
        engine.release()
        await inside
        assert both.batcher.counts.cancelled == 1
        assert [len(batch) for batch in engine.batches] == [1]


async def test_no_request_is_sent_whose_answer_might_find_no_room(linked: Linking) -> None:
    engine = FakeEngine()
    async with linked(engine, queue_images=1 << 20) as both:
        engine.hold()
        many = [asyncio.ensure_future(both.remote.submit(0, images(1), soon())) for _ in range(6000)]
        await settle()
        refused = [each for each in many if each.done()]
        assert 0 < len(refused) < 6000
        assert all(isinstance(each.exception(), QueueFull) for each in refused)
        engine.release()
        await asyncio.gather(*many, return_exceptions=True)
        # All room is back: as many as before are taken again.
        again = [asyncio.ensure_future(both.remote.submit(0, images(1), soon())) for _ in range(6000 - len(refused))]
        await asyncio.gather(*again)


async def test_a_lost_owner_fails_everybody_who_waits_and_everybody_who_comes(linked: Linking) -> None:
    engine = FakeEngine()
    async with linked(engine) as both:
        inside = await hold_engine(engine, both)
        both.remote.unlink()
        with pytest.raises(Unavailable, match="was lost"):
            await inside
        with pytest.raises(Unavailable, match="was lost"):
            await both.remote.submit(0, images(1), soon())


async def test_a_lost_front_end_takes_its_waiting_images_along(linked: Linking) -> None:
    engine = FakeEngine()
    async with linked(engine) as both:
        engine.hold()
        calls = [asyncio.ensure_future(both.remote.submit(0, images(1), soon())) for _ in range(20)]
        await asyncio.to_thread(engine.wait_until_inside)
        await settle()
        both.owner.unlink(0)
        await settle()
        assert both.batcher._queue.images == 0
        both.remote.unlink()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_draining_answers_what_was_accepted_and_refuses_the_rest(linked: Linking) -> None:
    engine = FakeEngine()
    async with linked(engine) as both:
        inside = await hold_engine(engine, both)
        drained = asyncio.ensure_future(both.remote.drain(asyncio.Event()))
        await settle()
        with pytest.raises(Unavailable, match="draining"):
            await both.remote.submit(0, images(1), soon())
        assert not drained.done()
        engine.release()
        assert await drained
        assert len((await inside).probabilities) == 1


async def test_questions_are_replied_to_or_refused(linked: Linking) -> None:
    async with linked(FakeEngine()) as both:
        await both.remote.submit(0, images(3), soon())
        counts = await both.remote.ask("counts", 0)
        assert (counts["answered"], counts["images"]) == (1, 3)
        with pytest.raises(UnknownModel, match="served no longer"):
            await both.remote.ask("counts", 7)
        with pytest.raises(ServeError, match="this is a bug"):
            await both.remote.load("compact")  # which is not allowed here, and front ends know that


async def test_a_load_that_fails_tells_the_whole_reason(linked: Linking, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "ö" * 1000  # as long as it may be, of characters that JSON makes much of

    async def fail(_: str) -> None:
        raise LoadFailed(reason)

    async with linked(FakeEngine(), model_control=True) as both:
        monkeypatch.setattr(both.owner._backend.control, "load", fail)
        with pytest.raises(LoadFailed) as failed:
            await both.remote.load("compact")
    assert str(failed.value) == reason
    assert sum(map(len, messages.refusal(0, failed.value, most_bytes=messages.REPLY_BYTES))) <= messages.REPLY_BYTES


async def test_a_model_is_retired_only_when_no_front_end_knows_it(linked: Linking) -> None:
    async with linked(FakeEngine(), model_control=True) as both:
        old = both.batcher
        unloading = asyncio.ensure_future(both.remote.unload("compact"))
        # Sent before the front end has heard of it: the old model still answers.
        answer = await both.remote.submit(0, images(2), soon())
        np.testing.assert_array_equal(answer.probabilities, answer_for(images(2)))
        await unloading
        assert old.refusal == "the server is draining"
        assert both.states[-1]["models"] == []
        with pytest.raises(ServeError, match="served no longer"):
            await both.remote.submit(0, images(2), soon())


async def test_a_message_that_makes_no_sense_costs_nobody_else_an_answer(linked: Linking) -> None:
    async with linked(FakeEngine()) as both:
        both.owner._send(0, messages.written(messages.REPLY, 999, None))  # nobody has asked
        loop, raised = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
        answer = await both.remote.submit(0, images(2), soon())
        np.testing.assert_array_equal(answer.probabilities, answer_for(images(2)))
        assert [type(error) for error in raised] == [KeyError]


async def test_after_a_new_owner_came_nothing_is_sent_before_its_models_are_known(linked: Linking) -> None:
    async with linked(FakeEngine()) as both:
        both.remote.unlink()
        other = Link.create(ServeConfig(queue_images=1024))
        both.remote.link(Link(*map(os.dup, other.fds)))
        with pytest.raises(Unavailable, match="was lost"):
            await both.remote.submit(0, images(1), soon())
        both.owner.link(0, other)
        await settle()
        assert len((await both.remote.submit(0, images(1), soon())).probabilities) == 1
