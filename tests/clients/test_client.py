"""Both Python clients against real servers: the answers are the model's, and each failure has its own exception."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest

from bundle import Bundle
from clients import (
    AsyncDigitClient,
    ClientClosed,
    DigitClient,
    DigitError,
    InvalidImages,
    ModelNotFound,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    TimedOut,
)
from protos.digits.v1 import digits_pb2, digits_pb2_grpc

ONE = np.zeros((28, 28), np.uint8)


def run_graph(bundle: Path, images: np.ndarray) -> np.ndarray:
    """What the bundle's graph says, with nothing of ours in between."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": images.reshape(-1, 1, 28, 28)})[0]


# Answers


def test_answers_are_those_of_the_graph_in_the_order_of_the_images(ask, address, bundle, images):
    expected = run_graph(bundle, images)
    answer = ask("classify", address, images, top_k=3)
    found = np.stack([prediction.probabilities for prediction in answer.predictions])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(answer.digits, expected.argmax(axis=1))
    for prediction, row in zip(answer.predictions, expected, strict=True):
        assert prediction.probability == pytest.approx(row.max(), abs=1e-5)
        assert [candidate.digit for candidate in prediction.top] == list(np.argsort(-row, kind="stable")[:3])
        assert [candidate.probability for candidate in prediction.top] == pytest.approx(sorted(row)[:-4:-1], abs=1e-5)


def test_an_answer_says_who_gave_it_and_how_long_it_took(ask, address, images):
    answer = ask("classify", address, images)
    assert (answer.model, answer.version) == ("compact", "1")
    assert 0 <= answer.queue_s < 60
    assert 0 < answer.compute_s < 60
    assert answer.batch_size >= 1


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (5, 28, 28), (5, 1, 28, 28)])
def test_images_may_come_in_each_of_these_shapes(ask, address, images, shape):
    count = math.prod(shape) // 784
    given = images[:count].reshape(shape)
    answer = ask("classify", address, given)
    np.testing.assert_array_equal(answer.digits, ask("classify", address, images[:count]).digits)
    assert len(answer.predictions) == count


def test_images_need_not_lie_side_by_side_in_memory(ask, address, images):
    turned = np.asfortranarray(images[::2])
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(
        ask("classify", address, turned).digits, ask("classify", address, turned.copy("C")).digits
    )


@pytest.mark.parametrize("top_k", [0, 1, 10])
def test_as_many_candidates_are_listed_as_were_asked_for(ask, address, top_k):
    [prediction] = ask("classify", address, ONE, top_k=top_k).predictions
    listed = [candidate.probability for candidate in prediction.top]
    assert len(listed) == top_k
    assert listed == sorted(listed, reverse=True)


def test_the_model_is_described_as_the_bundle_describes_it(ask, address, bundle):
    manifest = Bundle.open(bundle).manifest
    model = ask("get_model", address, model="compact", version="1")
    assert (model.name, model.version, model.architecture) == ("compact", "1", "compact")
    assert model.labels == tuple(manifest.labels)
    assert model.sha256 == manifest.files["model.onnx"].sha256
    assert model.accuracy == manifest.graphs["model.onnx"].parity.candidate_accuracy
    assert (model.engine, model.device, model.precision) == ("onnxruntime", "cpu", "fp32")
    assert model.max_images_per_request >= model.max_batch_size >= 1


def test_one_client_serves_many_threads(address, bundle, images):
    expected = run_graph(bundle, images).argmax(axis=1)
    with DigitClient(address) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda image: client.classify(image).digits[0], np.concatenate([images] * 3)))
    np.testing.assert_array_equal(found, np.concatenate([expected] * 3))


async def test_one_async_client_has_many_calls_under_way(address, bundle, images):
    expected = run_graph(bundle, images).argmax(axis=1)
    async with AsyncDigitClient(address) as client:
        answers = await asyncio.gather(*(client.classify(image) for image in images))
    np.testing.assert_array_equal([answer.digits[0] for answer in answers], expected)


# Bad input, found before anything is sent


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (ONE.astype(np.float32), "images are float32; uint8 was expected"),
        (ONE.astype(np.int64), "images are int64; uint8 was expected"),
        ([[0] * 28] * 28, "images are int64; uint8 was expected"),
        (ONE[:, :27], r"images have shape \(28, 27\); \[28, 28\], \[N, 28, 28\] or \[N, 1, 28, 28\] was expected"),
        (ONE.reshape(784), r"images have shape \(784,\)"),
        (np.zeros((2, 3, 28, 28), np.uint8), r"images have shape \(2, 3, 28, 28\)"),
        (np.zeros((1, 2, 1, 28, 28), np.uint8), r"images have shape \(1, 2, 1, 28, 28\)"),
        (np.zeros((0, 28, 28), np.uint8), r"images have shape \(0, 28, 28\); at least one image was expected"),
        (np.zeros((0, 1, 28, 28), np.uint8), "at least one image was expected"),
    ],
)
def test_bad_images_are_refused_before_anything_is_sent(ask, obedient, images, message):
    with pytest.raises(InvalidImages, match=message) as caught:
        ask("classify", obedient.address, images)
    assert caught.value.code is None
    assert obedient.calls == []


@pytest.mark.parametrize("pictures", [[], b"PNG", bytearray(b"PNG"), "three.png", ["three.png"], [Path("three.png")]])
def test_what_is_no_file_s_content_is_refused_before_anything_is_sent(ask, obedient, pictures):
    with pytest.raises(InvalidImages, match="at least one picture, each the bytes of a file, was expected"):
        ask("classify_pictures", obedient.address, pictures)
    assert obedient.calls == []


@pytest.mark.parametrize("top_k", [-1, 11])
def test_more_candidates_than_digits_are_refused_before_anything_is_sent(ask, obedient, top_k):
    with pytest.raises(InvalidImages, match=f"top_k is {top_k}; 0 to 10 was expected"):
        ask("classify", obedient.address, ONE, top_k=top_k)
    assert obedient.calls == []


def test_lists_of_different_lengths_are_refused_like_any_bad_images(ask, obedient):
    with pytest.raises(InvalidImages):
        ask("classify", obedient.address, [[1], [2, 3]])


# Bad input, found by the server


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"pixels": bytes(783)}, "pixels holds 783 bytes; a multiple of 784 was expected .*; resize the images"),
        ({"pixels": bytes(785)}, "pixels holds 785 bytes; a multiple of 784 was expected"),
        ({"pixels": b""}, "pixels is empty; 784 bytes per image were expected; send at least one image"),
        ({"pixels": bytes(784), "top_k": 11}, "top_k is 11; 0 to 10 was expected"),
        ({"pixels": bytes(784), "top_k": 2**32 - 1}, "top_k is 4294967295; 0 to 10 was expected"),
    ],
)
def test_the_server_names_what_it_got_and_goes_on_serving(raw, request_, message):
    with pytest.raises(grpc.RpcError, match=message) as caught:
        raw.Classify(digits_pb2.ClassifyRequest(**request_), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raw.Classify(digits_pb2.ClassifyRequest(pixels=bytes(784)), timeout=10).predictions


def test_bytes_that_are_no_request_are_bad_input_too(address):
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/digits.v1.DigitRecognizer/Classify")
        with pytest.raises(grpc.RpcError, match=r"the 3 bytes received are no digits\.v1\.ClassifyRequest") as caught:
            call(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("images", [1025, 5000])
def test_more_images_than_the_limit_are_invalid_and_the_limit_is_named(raw, images):
    request = digits_pb2.ClassifyRequest(pixels=bytes(784 * images))
    with pytest.raises(grpc.RpcError, match=f"pixels holds {images} images; at most 1024 are accepted") as caught:
        raw.Classify(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_the_server_refuses_names_the_server_and_the_status(address, images):
    with DigitClient(address) as client:
        [refused] = client.stream([np.zeros((1025, 28, 28), np.uint8)])
    assert isinstance(refused, InvalidImages)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refused).startswith(f"{address}: INVALID_ARGUMENT: pixels holds 1025 images; at most 1024 are accepted")


# More images than a server takes at once


def test_an_array_of_any_length_is_answered_in_order(ask, address, bundle, images):
    many = np.tile(images, (65, 1, 1))
    many[1020:1030] = many[:10]
    answer = ask("classify", address, many, timeout_s=60)
    np.testing.assert_array_equal(answer.digits, run_graph(bundle, many).argmax(axis=1))
    assert (answer.model, answer.version) == ("compact", "1")


def test_a_long_array_is_sent_in_pieces_under_one_deadline_and_one_name(ask, obedient):
    obedient.statuses, obedient.pushback_ms = [grpc.StatusCode.RESOURCE_EXHAUSTED], 500
    ask("classify", obedient.address, np.zeros((2500, 28, 28), np.uint8), top_k=3, model="m", timeout_s=4)
    assert [len(call.request.pixels) // 784 for call in obedient.calls] == [1024, 1024, 1024, 452]
    assert {(call.request.top_k, call.request.model) for call in obedient.calls} == {(3, "m")}
    assert len({call.request_id for call in obedient.calls}) == 1
    assert obedient.calls[-1].time_remaining < obedient.calls[0].time_remaining - 0.4


def test_a_piece_that_fails_is_the_last_that_is_sent(ask, obedient):
    obedient.statuses = [grpc.StatusCode.INTERNAL]
    with pytest.raises(ServerError):
        ask("classify", obedient.address, np.zeros((2500, 28, 28), np.uint8))
    assert len(obedient.calls) == 1


# Names of calls


def test_each_call_has_a_name_which_its_exception_knows(ask, obedient):
    obedient.statuses = [grpc.StatusCode.INTERNAL] * 2
    names = []
    for _ in range(2):
        with pytest.raises(ServerError) as caught:
            ask("classify", obedient.address, ONE)
        names.append(caught.value.request_id)
    assert names == [call.request_id for call in obedient.calls]
    assert len(set(names)) == 2


def test_every_attempt_of_a_call_has_its_name(ask, obedient):
    obedient.statuses = [grpc.StatusCode.UNAVAILABLE]
    ask("get_model", obedient.address)
    ask("classify", obedient.address, ONE)
    _, first, second = (call.request_id for call in obedient.calls)
    assert first == second != ""


# The other failures


@pytest.mark.parametrize("method", ["classify", "get_model"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ({"model": "resnet"}, "model 'resnet' is not served here; 'compact' is"),
        ({"version": "2"}, "version '2' of 'compact' is not served here; '1' is"),
        ({"model": "compact", "version": "01"}, "version '01' of 'compact' is not served here"),
    ],
)
def test_an_unknown_model_or_version_is_named_with_the_one_that_is_served(ask, address, method, name, message):
    images = [ONE] if method == "classify" else []
    with pytest.raises(ModelNotFound, match=message) as caught:
        ask(method, address, *images, **name)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_name_of_any_length_comes_back_cut(ask, address):
    with pytest.raises(ModelNotFound) as caught:
        ask("get_model", address, model="x" * 100_000)
    assert "'xxx" in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_deadline_that_cannot_be_met_times_out(ask, address):
    with pytest.raises(TimedOut, match="DEADLINE_EXCEEDED: ") as caught:
        ask("classify", address, np.zeros((1024, 28, 28), np.uint8), timeout_s=1e-3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_server_that_never_answers_does_not_hold_the_caller_beyond_its_deadline(ask, obedient):
    obedient.hold.clear()
    with pytest.raises(TimedOut):
        ask("classify", obedient.address, ONE, timeout_s=0.2)
    assert len(obedient.calls) == 1


def test_nothing_listening_is_unavailable_and_the_address_is_named(ask, free_address):
    with pytest.raises(ServerUnavailable, match=f"{free_address}: UNAVAILABLE: nothing listens there") as caught:
        ask("classify", free_address, ONE, timeout_s=5)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_crowd_at_a_full_queue_is_served_or_told_that_it_is_full(serving, images):
    """One engine that takes one image at a time, and a queue that one request fills."""
    many = np.zeros((4096, 28, 28), np.uint8)
    flags = ("--slots", "1", "--max-batch", "1", "--max-images-per-request", "4096", "--queue-images", "4096")
    with serving(*flags) as address, DigitClient(address) as client:

        def outcome(_: int) -> Exception | None:
            try:
                client.classify(many, timeout_s=30)
            except DigitError as error:
                return error
            return None

        with ThreadPoolExecutor(12) as callers:
            outcomes = list(callers.map(outcome, range(12)))
        assert None in outcomes
        assert {type(each) for each in outcomes} <= {type(None), ServerBusy}
        assert all("the queue holds" in str(each) for each in outcomes if each)
        assert len(client.classify(images).predictions) == len(images)


def test_a_busy_server_says_when_to_come_again(serving):
    flags = ("--slots", "1", "--max-batch", "1", "--max-images-per-request", "4096", "--queue-images", "4096")
    request = digits_pb2.ClassifyRequest(pixels=bytes(784 * 4096))
    with serving(*flags) as address, grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        stub = digits_pb2_grpc.DigitRecognizerStub(channel)
        calls = [stub.Classify.future(request, timeout=30) for _ in range(4)]
        codes = [call.code() for call in calls]
        refused = calls[codes.index(grpc.StatusCode.RESOURCE_EXHAUSTED)]
        assert grpc.StatusCode.OK in codes
        assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1


# What is repeated, and what is not


@pytest.mark.parametrize(
    ("status", "attempts", "exception"),
    [
        (grpc.StatusCode.UNAVAILABLE, 4, ServerUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4, ServerBusy),
        (grpc.StatusCode.CANCELLED, 4, ServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1, TimedOut),
        (grpc.StatusCode.INTERNAL, 1, ServerError),
        (grpc.StatusCode.UNKNOWN, 1, ServerError),
        (grpc.StatusCode.INVALID_ARGUMENT, 1, InvalidImages),
        (grpc.StatusCode.NOT_FOUND, 1, ModelNotFound),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_only_a_busy_or_absent_server_is_asked_again(ask, obedient, status, attempts, exception):
    obedient.statuses = [status] * 10
    with pytest.raises(exception, match=f"{obedient.address}: {status.name}: as told") as caught:
        ask("classify", obedient.address, ONE)
    assert caught.value.code is status
    assert len(obedient.calls) == attempts


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_call_that_succeeds_when_repeated_is_answered_as_if_nothing_had_been(ask, obedient, status):
    obedient.statuses = [status, status]
    assert list(ask("classify", obedient.address, ONE).digits) == [9]
    assert [call.request.pixels for call in obedient.calls] == [ONE.tobytes()] * 3


def test_a_busy_server_decides_when_it_is_asked_again(ask, obedient):
    obedient.statuses, obedient.pushback_ms = [grpc.StatusCode.RESOURCE_EXHAUSTED], 300
    ask("classify", obedient.address, ONE)
    first, second = obedient.calls
    assert second.arrived - first.arrived >= 0.29


@pytest.mark.parametrize("method", ["classify", "get_model"])
def test_every_call_has_a_deadline_and_its_own_comes_first(ask, obedient, method):
    images = [ONE] if method == "classify" else []
    ask(method, obedient.address, *images)
    ask(method, obedient.address, *images, timeout_s=100)
    unset, own = (call.time_remaining for call in obedient.calls)
    assert 0 < unset <= 6  # on the wire a deadline is rounded up
    assert 50 < own <= 102


# Lifecycle


def test_a_client_that_was_closed_says_so_to_every_call(obedient):
    with DigitClient(obedient.address) as client:
        client.get_model()
    for call in (
        client.get_model,
        client.wait_until_ready,
        lambda: client.classify(ONE),
        lambda: client.classify_pictures([b"a picture"]),
        lambda: next(client.stream([ONE])),
    ):
        with pytest.raises(ClientClosed, match=f"{obedient.address}: this client was closed; make a new one"):
            call()
    assert len(obedient.calls) == 1


async def test_an_async_client_that_was_closed_says_so_to_every_call(obedient):
    async def batches() -> AsyncIterator[np.ndarray]:
        yield ONE

    async with AsyncDigitClient(obedient.address) as client:
        await client.get_model()
    for call in (
        client.get_model(),
        client.wait_until_ready(),
        client.classify(ONE),
        client.classify_pictures([b"a picture"]),
        anext(client.stream(batches())),
    ):
        with pytest.raises(ClientClosed, match=f"{obedient.address}: this client was closed; make a new one"):
            await call
    assert len(obedient.calls) == 1


def test_a_call_that_finds_the_channel_closed_by_another_thread_says_so_too(obedient):
    client = DigitClient(obedient.address)
    client._channel.close()
    for call in (lambda: client.classify(ONE), lambda: next(client.stream([ONE])), client.wait_until_ready):
        with pytest.raises(ClientClosed):
            call()


def test_closing_ends_the_wait_for_a_server(obedient):
    obedient.report(serving=False)
    client = DigitClient(obedient.address)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(client.wait_until_ready, timeout_s=30)
        client.get_model()  # meanwhile the wait begins
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result()


def test_closing_ends_the_calls_that_are_under_way(obedient):
    obedient.hold.clear()
    client = DigitClient(obedient.address)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.classify, ONE, timeout_s=30)
        while not obedient.calls:  # ends as soon as the call has arrived, or with the test's time limit
            threading.Event().wait(0.005)
        client.close()
        with pytest.raises(ServerError, match="CANCELLED") as caught:
            call.result()
    assert caught.value.code is grpc.StatusCode.CANCELLED


async def test_closing_the_async_client_ends_its_calls_without_cancelling_their_callers(obedient):
    obedient.hold.clear()
    client = AsyncDigitClient(obedient.address)
    call = asyncio.create_task(client.classify(ONE, timeout_s=30))
    while not obedient.calls:  # noqa: ASYNC110, the server runs on threads
        await asyncio.sleep(0.005)
    await client.close()
    with pytest.raises(ServerError, match="the client was closed"):
        await call


async def test_closing_the_async_client_ends_its_streams_and_who_waits_likewise(obedient):
    async def batches() -> AsyncIterator[np.ndarray]:
        sending.set()
        await asyncio.Event().wait()
        yield ONE

    obedient.report(serving=False)
    sending = asyncio.Event()
    client = AsyncDigitClient(obedient.address)
    calls = [
        asyncio.ensure_future(anext(client.stream(batches(), timeout_s=30))),
        asyncio.create_task(client.wait_until_ready(timeout_s=30)),
    ]
    await sending.wait()
    await client.close()
    for call in calls:
        with pytest.raises(ServerError, match="the client was closed"):
            await call


async def test_a_cancelled_caller_of_the_async_client_sees_its_own_cancellation(obedient):
    obedient.hold.clear()
    async with AsyncDigitClient(obedient.address) as client:
        call = asyncio.create_task(client.classify(ONE, timeout_s=30))
        while not obedient.calls:  # noqa: ASYNC110, the server runs on threads
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@pytest.mark.parametrize("timeout_s", [0, -1, math.inf, math.nan])
def test_a_call_without_an_end_is_refused(ask, obedient, timeout_s):
    with pytest.raises(InvalidImages, match="a finite number of seconds above 0"):
        ask("classify", obedient.address, ONE, timeout_s=timeout_s)
    assert obedient.calls == []


@pytest.mark.parametrize("kind", [DigitClient, AsyncDigitClient])
def test_a_client_whose_calls_would_have_no_end_is_refused(kind):
    with pytest.raises(InvalidImages, match="timeout_s is 0; a finite number of seconds above 0"):
        kind("127.0.0.1:1", timeout_s=0)


def test_a_large_request_is_repeated_like_a_small_one(ask, obedient):
    obedient.statuses = [grpc.StatusCode.UNAVAILABLE] * 3
    answer = ask("classify", obedient.address, np.zeros((1024, 28, 28), np.uint8), timeout_s=30)
    assert len(answer.predictions) == 1024
    assert len(obedient.calls) == 4


def test_a_message_too_large_for_the_transport_is_the_callers_mistake(address):
    with (
        DigitClient(address) as client,
        pytest.raises(InvalidImages, match=r"send fewer images in one request, .*\(.*larger than max"),
    ):
        list(client.stream([np.zeros((10_000, 28, 28), np.uint8)]))


def test_an_error_inside_the_context_is_not_swallowed(obedient):
    with pytest.raises(KeyError, match="mine"), DigitClient(obedient.address):
        raise KeyError("mine")


def test_a_client_says_nothing_to_the_server_before_the_first_call(free_address):
    with DigitClient(free_address) as client:
        assert client.address == free_address
