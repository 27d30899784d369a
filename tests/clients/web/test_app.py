"""What the page's server answers, and what it refuses; over HTTP, as a browser or somebody else asks."""

import asyncio
import base64
import socket
import threading
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import pytest

import imaging
from clients import DigitClient
from clients.web.app import MAX_PICTURE_BYTES, MAX_PICTURES
from imaging.errors import WorkerLost
from tests.clients.web.conftest import EXAMPLES

SEVEN = (EXAMPLES / "seven.png").read_bytes()


def ask(url: str, *, content: bytes = SEVEN, **options) -> httpx.Response:
    return httpx.post(f"{url}/api/digits", content=content, timeout=20, **options)


async def read(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
    return imaging.read(data, many=many)


# Answers


def test_a_picture_is_answered_as_the_client_library_answers_its_pixels(http, champion):
    (seen,) = imaging.read(SEVEN)
    with DigitClient(champion) as client:
        expected = client.classify(seen.pixels)
    answer = http.post("/api/digits", content=SEVEN).json()
    [digit] = answer["digits"]
    assert digit["digit"] == 7
    np.testing.assert_allclose(digit["probabilities"], expected.predictions[0].probabilities, atol=1e-6)
    assert base64.b64decode(digit["pixels"]) == seen.pixels.tobytes()
    assert digit["box"] == {name: getattr(seen.box, name) for name in ("left", "top", "width", "height")}
    assert digit["warnings"] == list(seen.warnings)
    assert (answer["model"], answer["version"], answer["batch_size"]) == ("champion", "1", 1)
    assert min(answer[name] for name in ("picture_ms", "queue_ms", "compute_ms")) >= 0


def test_several_digits_are_one_request_in_their_order(page_with, champion):
    digits = tuple(
        digit for name in ("three", "seven") for digit in imaging.read((EXAMPLES / f"{name}.png").read_bytes())
    )

    async def two(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        return digits if many else digits[:1]

    with page_with(two, champion) as url:
        assert [each["digit"] for each in ask(url, params={"many": 1}).json()["digits"]] == [3, 7]
        assert [each["digit"] for each in ask(url).json()["digits"]] == [3]


def test_a_picture_without_digits_is_answered_without_asking_the_server(page_with, free_address):
    async def none(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        return ()

    with page_with(none, free_address) as url:
        assert ask(url, params={"many": 1}).json()["digits"] == []


@pytest.mark.parametrize(("probability", "warnings"), [(0.89, ["low_confidence"]), (0.91, [])])
def test_what_the_network_is_not_sure_of_is_warned_of(page_with, obedient, probability, warnings):
    obedient.probabilities = [1 - probability] + [0.0] * 8 + [probability]
    with page_with(read, obedient.address) as url:
        assert [each["warnings"] for each in ask(url).json()["digits"]] == [warnings]


def test_the_card_is_the_model_s(http, champion):
    with DigitClient(champion) as client:
        model = client.get_model()
    card = http.get("/api/model").json()
    assert (card["name"], card["sha256"], card["accuracy"]) == (model.name, model.sha256, model.accuracy)
    assert card["labels"] == list(model.labels)


def test_the_load_grows_by_what_was_answered(http):
    before = http.get("/api/load").json()
    for _ in range(3):
        http.post("/api/digits", content=SEVEN)
    after = http.get("/api/load").json()
    assert [after[name] - before[name] for name in ("requests", "images", "batches", "failed")] == [3, 3, 3, 0]
    assert after["queue_s"] > before["queue_s"]
    assert after["time_s"] > before["time_s"]


# Refusals


def test_what_is_no_picture_is_a_bad_request_that_says_what_is_expected(http):
    answer = http.post("/api/digits", content=b"a letter")
    assert answer.status_code == 400
    assert "PNG" in answer.json()["error"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_beyond_the_limit_is_refused_announced_or_not(http, announced):
    chunks = [bytes(1 << 20)] * (MAX_PICTURE_BYTES // (1 << 20)) + [b"."]
    answer = http.post("/api/digits", content=b"".join(chunks) if announced else iter(chunks))
    assert answer.status_code == 413
    assert "at most 16 MiB" in answer.json()["error"]


def test_a_file_at_the_limit_is_read(http):
    # What follows a PNG's end is no part of it.
    assert http.post("/api/digits", content=SEVEN.ljust(MAX_PICTURE_BYTES, b".")).status_code == 200


def test_more_pictures_than_there_are_places_are_refused_at_once_and_places_return(page_with, champion):
    inside, proceed = threading.Semaphore(0), threading.Event()

    async def hold(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        inside.release()
        await asyncio.to_thread(proceed.wait, 20)
        return imaging.read(data)

    with page_with(hold, champion) as url:
        answers: list[int] = []
        callers = [threading.Thread(target=lambda: answers.append(ask(url).status_code)) for _ in range(MAX_PICTURES)]
        for caller in callers:
            caller.start()
        for _ in callers:
            assert inside.acquire(timeout=20)
        refused = ask(url)
        proceed.set()
        for caller in callers:
            caller.join()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert answers == [200] * MAX_PICTURES
        assert ask(url).status_code == 200


def test_a_picture_that_ends_its_process_is_answered_all_the_same(page_with, free_address):
    async def lost(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        raise WorkerLost("it ended")

    with page_with(lost, free_address) as url:
        answer = ask(url)
        assert (answer.status_code, answer.json()) == (500, {"error": "it ended"})


def test_a_picture_that_does_not_arrive_is_given_up(page_with, free_address, monkeypatch):
    monkeypatch.setattr("clients.web.app.UPLOAD_TIMEOUT_S", 0.05)
    with (
        page_with(read, free_address) as url,
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as slow,
    ):
        slow.sendall(b"POST /api/digits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n.")
        assert slow.recv(1 << 10).startswith(b"HTTP/1.1 408 ")


def test_a_caller_that_hangs_up_leaves_its_place_and_nothing_in_the_log(url, http):
    """The log is read when the page ends."""
    for _ in range(MAX_PICTURES + 1):
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as left:
            left.sendall(b"POST /api/digits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n.")
            left.shutdown(socket.SHUT_WR)
            assert left.recv(1) == b""
    assert http.post("/api/digits", content=SEVEN).status_code == 200


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.UNAUTHENTICATED, 502),
        (grpc.StatusCode.NOT_FOUND, 502),
        (grpc.StatusCode.INTERNAL, 502),
    ],
)
def test_each_failure_of_the_digit_server_has_its_status(page_with, obedient, status, expected):
    obedient.statuses = [status]
    obedient.pushback_ms = -1  # not to be tried again
    with page_with(read, obedient.address) as url:
        answer = ask(url)
        assert answer.status_code == expected
        assert list(answer.json()) == ["error"]
        assert ask(url).status_code == 200


def test_without_a_digit_server_everything_but_the_page_is_unavailable(page_with, free_address):
    with page_with(read, free_address) as url:
        assert httpx.get(f"{url}/").status_code == 200
        answers = [ask(url), httpx.get(f"{url}/api/model"), httpx.get(f"{url}/api/load")]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert {answer.json()["error"] for answer in answers} == {"the digit server does not answer"}


def test_a_fault_of_ours_is_not_explained_to_callers(page_with, free_address):
    async def fail(data: bytes, *, many: bool) -> tuple[imaging.Digit, ...]:
        raise RuntimeError("secret")

    with page_with(fail, free_address) as url:
        answer = ask(url)
    assert answer.status_code == 500
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/../app.py", 404),
        ("GET", "/%2e%2e/app.py", 404),
        ("GET", "/static", 404),
        ("GET", "/api/digits", 405),
        ("POST", "/api/load", 405),
        ("POST", "/", 405),
    ],
)
def test_what_is_not_there_is_refused_in_json(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


# Other web sites


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1", "a b"])
def test_a_foreign_name_is_refused_so_that_no_site_can_rebind_its_own(http, host):
    for path in ("/", "/api/load"):
        assert http.get(path, headers={"Host": host}).status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "192.168.1.20:8080", "[::1]:8080"])
def test_addresses_and_localhost_are_served(http, host):
    assert http.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", ""])
def test_a_page_of_another_site_cannot_ask(http, origin):
    answer = http.post("/api/digits", content=SEVEN, headers={"Origin": origin})
    assert (answer.status_code, list(answer.json())) == (403, ["error"])


def test_the_page_itself_can_ask(http, url):
    assert http.post("/api/digits", content=SEVEN, headers={"Origin": url}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/api/load", "/nope"])
def test_every_answer_forbids_what_the_page_does_not_need(http, path):
    headers = http.get(path).headers
    policy = dict(each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";"))
    assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("frame-ancestors") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_page_s_files_are_asked_for_again_and_not_sent_again(http):
    tag = http.get("/app.js").headers["etag"]
    assert http.get("/app.js", headers={"If-None-Match": tag}).status_code == 304
