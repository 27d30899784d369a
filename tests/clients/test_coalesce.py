"""Calls that share requests: the rules without a transport, in every order of events, then both clients on sockets."""

import asyncio
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import (
    AsyncDigitClient,
    ClientClosed,
    DigitClient,
    InvalidImages,
    ModelNotFound,
    ServerBusy,
    ServerError,
    TimedOut,
)
from clients.answers import Classification, Prediction
from clients.coalesce import MOST_IMAGES, MOST_WAITING_IMAGES, Coalescer, Kind, Part
from tests.clients.test_client import run_graph

ONE = np.zeros((28, 28), np.uint8)
KINDS = (Kind("", "", 0), Kind("", "", 3), Kind("a", "", 0))


def part(kind: Kind = KINDS[0], images: int = 1, mark: int = 0) -> Part:
    """All of its bytes are its mark."""
    return Part(kind=kind, pixels=bytes([mark]) * (784 * images), deadline=0.0, answer=Future())


def answer_to(parts: list[Part]) -> Classification:
    """As a server would: the digit of each image is its first byte."""
    pixels = b"".join(each.pixels for each in parts)
    predictions = [
        Prediction(digit=pixels[at], probabilities=np.zeros(10), top=()) for at in range(0, len(pixels), 784)
    ]
    return Classification(
        predictions=tuple(predictions), model="m", version="1", queue_s=0, compute_s=0, batch_size=len(predictions)
    )


# What may happen: a call comes, a waiting or travelling one is given up, a request is answered, refused, or fails.
COMES = st.tuples(st.just("comes"), st.sampled_from(KINDS), st.integers(1, MOST_IMAGES))
LEAVES = st.tuples(st.just("leaves"), st.integers(0, 30), st.none())
ENDS = st.tuples(
    st.sampled_from(["answered", "answered", "too large", "failed", "short"]), st.sampled_from(KINDS), st.none()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(COMES, COMES, LEAVES, ENDS), max_size=40))
def test_each_caller_gets_its_own_answer_whatever_happens_to_others(events):
    coalescer = Coalescer()
    under_way: dict[Kind, list[Part]] = {}
    come: list[Part] = []
    failed: set[Part] = set()
    sent: list[Part] = []

    def send(kind: Kind) -> None:
        assert kind not in under_way
        if parts := coalescer.take(kind):
            assert {each.kind for each in parts} == {kind}
            assert len(parts) == 1 or sum(each.images for each in parts) <= MOST_IMAGES
            assert not any(each.withdrawn or each.answer.done() for each in parts)
            sent.extend(parts)
            under_way[kind] = parts

    def end(kind: Kind, how: str) -> None:
        parts = under_way.pop(kind)
        if how == "answered":
            coalescer.answer(parts, answer_to(parts))
        elif how == "short":
            failed.update(parts)
            coalescer.answer(parts, answer_to([part(kind, sum(each.images for each in parts) + 1)]))
        elif how == "failed" or len(parts) == 1:
            failed.update(parts)
            coalescer.fail(parts, ServerError("as told"))
        else:
            coalescer.fail(parts, InvalidImages("at most so many are accepted"))
        send(kind)

    for what, which, images in events:
        if what == "comes":
            come.append(part(which, images, mark=len(come)))
            if coalescer.add(come[-1]):
                send(which)
        elif what == "leaves" and which < len(come):
            coalescer.withdraw(come[which])
        elif which in under_way:
            end(which, what)
    while under_way:
        end(next(iter(under_way)), "answered")

    for mark, each in enumerate(come):
        if each in failed:
            with pytest.raises(ServerError):
                each.answer.result(0)
        elif each.answer.done():
            assert [prediction.digit for prediction in each.answer.result(0).predictions] == [mark] * each.images
        else:
            assert each.withdrawn
    for kind in KINDS:
        firsts = [come.index(each) for each in dict.fromkeys(sent) if each.kind == kind]
        assert firsts == sorted(firsts), "not first come, first served"
        assert coalescer.add(part(kind)), "somebody is thought to send, and does not"


def test_a_server_that_takes_fewer_images_gets_fewer_from_then_on():
    coalescer = Coalescer()
    limit, sizes = 5, []
    parts = [part(mark=mark) for mark in range(64)]
    assert [coalescer.add(each) for each in parts] == [True] + [False] * 63
    while taken := coalescer.take(KINDS[0]):
        sizes.append(len(taken))
        if len(taken) > limit:
            coalescer.fail(taken, InvalidImages(f"at most {limit} are accepted"))
        else:
            coalescer.answer(taken, answer_to(taken))
    assert sizes == [64, 32, 16, 8] + [4] * 16
    assert [each.answer.result(0).predictions[0].digit for each in parts] == list(range(64))


def test_what_waits_is_bounded():
    coalescer = Coalescer()
    waiting = [part(images=MOST_IMAGES) for _ in range(MOST_WAITING_IMAGES // MOST_IMAGES)]
    for each in waiting:
        coalescer.add(each)
    with pytest.raises(ServerBusy, match="16384 images wait in this client; 16384 may"):
        coalescer.add(part())
    coalescer.withdraw(waiting[-1])
    coalescer.add(part())


# On sockets


def test_threads_that_share_requests_get_their_own_answers(address, bundle, images):
    expected = run_graph(bundle, images)

    def ask(client: DigitClient, index: int) -> None:
        start, stop = index % 40, index % 40 + 1 + index % 3
        answer = client.classify(images[start:stop], top_k=index % 4, timeout_s=30)
        found = np.stack([each.probabilities for each in answer.predictions])
        np.testing.assert_allclose(found, expected[start:stop], atol=1e-5)
        assert {len(each.top) for each in answer.predictions} == {index % 4}

    with DigitClient(address, coalesce=True) as client, ThreadPoolExecutor(32) as threads:
        list(threads.map(ask, itertools.repeat(client), range(400)))


async def test_tasks_that_share_requests_get_their_own_answers(address, bundle, images):
    expected = run_graph(bundle, images).argmax(axis=1)
    async with AsyncDigitClient(address, coalesce=True) as client:
        many = list(range(40)) * 10
        answers = await asyncio.gather(*(client.classify(images[index], timeout_s=30) for index in many))
    np.testing.assert_array_equal([answer.digits[0] for answer in answers], expected[many])


async def test_calls_made_at_once_leave_together_and_those_made_meanwhile_too(obedient):
    async with AsyncDigitClient(obedient.address, coalesce=True) as client:
        obedient.hold.clear()
        first = [asyncio.create_task(client.classify(ONE)) for _ in range(5)]
        await arrived(obedient, 1)
        then = [asyncio.create_task(client.classify(np.zeros((size, 28, 28), np.uint8))) for size in (1, 2, 3)]
        await asyncio.sleep(0)
        obedient.hold.set()
        answers = await asyncio.gather(*first, *then)
    assert [len(call.request.pixels) // 784 for call in obedient.calls] == [5, 6]
    assert [len(answer.predictions) for answer in answers] == [1] * 5 + [1, 2, 3]


async def test_what_differs_in_model_version_or_candidates_travels_apart(obedient):
    options = [{}, {"model": "told"}, {"version": "1"}, {"top_k": 2}, {"model": "told", "top_k": 2}]
    async with AsyncDigitClient(obedient.address, coalesce=True) as client:
        await asyncio.gather(*(client.classify(ONE, **each) for each in options * 3))
    assert [len(call.request.pixels) // 784 for call in obedient.calls] == [3] * 5


async def test_a_caller_that_gives_up_hurts_nobody(obedient):
    async with AsyncDigitClient(obedient.address, coalesce=True) as client:
        obedient.hold.clear()
        travelling = [asyncio.create_task(client.classify(ONE)) for _ in range(3)]
        await arrived(obedient, 1)
        waiting = [asyncio.create_task(client.classify(ONE)) for _ in range(3)]
        hasty = asyncio.create_task(client.classify(ONE, timeout_s=0.05))
        with pytest.raises(TimedOut, match="no answer in time"):
            await hasty
        for task in (travelling[1], waiting[1]):
            task.cancel()
        obedient.hold.set()
        outcomes = await asyncio.gather(*travelling, *waiting, return_exceptions=True)
    assert [type(each).__name__ for each in outcomes] == ["Classification", "CancelledError", "Classification"] * 2
    assert [len(call.request.pixels) // 784 for call in obedient.calls] == [3, 2]


def test_a_thread_that_gives_up_hurts_nobody(obedient):
    with DigitClient(obedient.address, coalesce=True) as client, ThreadPoolExecutor(3) as threads:
        obedient.hold.clear()
        first = threads.submit(client.classify, ONE, timeout_s=30)
        while not obedient.calls:  # ends as soon as the call has arrived, or with the test's time limit
            threading.Event().wait(0.005)
        patient = threads.submit(client.classify, ONE, timeout_s=30)
        with pytest.raises(TimedOut):
            client.classify(ONE, timeout_s=0.05)
        obedient.hold.set()
        assert list(first.result().digits) == list(patient.result().digits) == [9]
    assert len(obedient.calls) == 2


async def test_a_request_has_the_longest_of_its_calls_deadlines(obedient):
    async with AsyncDigitClient(obedient.address, coalesce=True) as client:
        await asyncio.gather(client.classify(ONE, timeout_s=1), client.classify(ONE, timeout_s=100))
    [call] = obedient.calls
    assert 50 < call.time_remaining <= 102


async def test_each_caller_of_a_failed_request_gets_an_exception_of_its_own(obedient):
    obedient.statuses = [grpc.StatusCode.INTERNAL]
    async with AsyncDigitClient(obedient.address, coalesce=True) as client:
        outcomes = await asyncio.gather(*(client.classify(ONE) for _ in range(3)), return_exceptions=True)
        assert len((await client.classify(ONE)).predictions) == 1
    assert {type(each) for each in outcomes} == {ServerError}
    assert len({id(each) for each in outcomes}) == 3
    assert {each.request_id for each in outcomes} == {obedient.calls[0].request_id}
    assert {each.code for each in outcomes} == {grpc.StatusCode.INTERNAL}


async def test_a_bad_call_is_refused_before_it_can_join_others(obedient):
    bad = ({"images": ONE[:5]}, {"images": ONE, "top_k": 11}, {"images": ONE, "timeout_s": -1})
    async with AsyncDigitClient(obedient.address, coalesce=True) as client:
        good = [asyncio.create_task(client.classify(ONE)) for _ in range(3)]
        for each in bad:
            with pytest.raises(InvalidImages):
                await client.classify(**each)
        assert all([len((await task).predictions) == 1 for task in good])
    assert [len(call.request.pixels) // 784 for call in obedient.calls] == [3]


def test_a_server_with_a_lower_limit_serves_threads_that_share_requests(serving, images):
    with (
        serving("--slots", "1", "--max-images-per-request", "4") as address,
        DigitClient(address, coalesce=True) as client,
        ThreadPoolExecutor(16) as threads,
    ):
        answers = list(threads.map(lambda image: client.classify(image, timeout_s=30), images))
        with pytest.raises(InvalidImages, match="at most 4 are accepted"):
            client.classify(images[:5])
        with pytest.raises(ModelNotFound):
            client.classify(ONE, model="another")
    assert [len(answer.predictions) for answer in answers] == [1] * len(images)


def test_a_closed_client_answers_nobody_late(obedient):
    obedient.hold.clear()
    client = DigitClient(obedient.address, coalesce=True)
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(client.classify, ONE, timeout_s=30) for _ in range(3)]
        while not obedient.calls:  # ends as soon as a call has arrived, or with the test's time limit
            threading.Event().wait(0.005)
        client.close()
        assert all(isinstance(call.exception(), ServerError | ClientClosed) for call in calls)
    with pytest.raises(ClientClosed):
        client.classify(ONE)


async def arrived(server, calls: int) -> None:
    """Ends as soon as so many have arrived, or with the test's time limit."""
    while len(server.calls) < calls:  # noqa: ASYNC110, the server runs on threads
        await asyncio.sleep(0.005)
