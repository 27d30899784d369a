"""Tokens: who may call, what the others are told, and what never appears anywhere."""

import logging
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from clients import AccessDenied, AsyncDigitClient
from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.rpc import token
from tests.fakes import FakeEngine, images
from tests.serve.conftest import Serving

FIRST, SECOND, OTHER = "first-token-of-some-length", "second-token-of-some-length", "another-token-of-some-length"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the token file anew."""

    def write(*lines: str, mode: int = 0o600) -> Path:
        path = tmp_path / "tokens"
        path.write_text("".join(f"{line}\n" for line in lines))
        path.chmod(mode)
        return path

    return write


async def admitted(address: str, secret: str | None) -> bool:
    async with AsyncDigitClient(address, token=secret) as client:
        try:
            return len((await client.classify(images(2))).predictions) == 2
        except AccessDenied:
            return False


async def refusal(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
    request = digits_pb2.ClassifyRequest(pixels=images(1).tobytes())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await digits_pb2_grpc.DigitRecognizerStub(channel).Classify(request, metadata=metadata)
    return refused.value


async def test_who_is_not_let_in_is_counted_and_logged_under_no_method_of_his_choice(
    serving: Serving, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(FakeEngine(), token_file=write(FIRST), access_log=1.0) as server:
        for wrong in (None, OTHER):
            assert not await admitted(server.address, wrong)
    seen = [(call.method, call.code, call.reason) for call in caplog.records if call.name == "serve.rpc.access_log"]
    assert seen == [("", "UNAUTHENTICATED", "no_token"), ("", "UNAUTHENTICATED", "wrong_token")]


async def test_every_token_of_the_file_opens_and_nothing_else_does(
    serving: Serving, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with serving(FakeEngine(), token_file=write(FIRST, "", SECOND)) as server:
            assert await admitted(server.address, FIRST)
            assert await admitted(server.address, SECOND)
            for wrong in (None, OTHER, FIRST[:-1], f"{FIRST}x", FIRST.upper()):
                assert not await admitted(server.address, wrong)
    for secret in (FIRST, SECOND, OTHER):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    ("value", "details"),
    [
        (None, "no token was received; send the metadata `authorization: Bearer TOKEN`"),
        (f"Bearer {OTHER}", "the token received is not valid here; send the metadata `authorization: Bearer TOKEN`"),
        (f"Basic {FIRST}", "the token received is not valid here"),
        (FIRST, "the token received is not valid here"),
        ("Bearer ", "the token received is not valid here"),
        (f"Bearer {FIRST} {SECOND}", "the token received is not valid here"),
    ],
)
async def test_a_refusal_says_what_to_send_and_not_what_was_sent(
    serving: Serving, write: Callable[..., Path], value: str | None, details: str
) -> None:
    async with (
        serving(FakeEngine(), token_file=write(FIRST)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        refused = await refusal(channel, *([("authorization", value)] if value else []))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert str(refused.details()).startswith(details)
    assert OTHER not in str(refused)
    assert FIRST not in str(refused)


async def test_health_needs_no_token_and_reflection_does(serving: Serving, write: Callable[..., Path]) -> None:
    async with (
        serving(FakeEngine(), token_file=write(FIRST)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            [_ async for _ in ask(iter([question]))]
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", f"Bearer {FIRST}"),)
        assert [_ async for _ in ask(iter([question]), metadata=metadata)]


async def test_who_has_no_token_is_refused_before_anything_of_the_message_is_there(
    serving: Serving, write: Callable[..., Path]
) -> None:
    async with (
        serving(FakeEngine(), token_file=write(FIRST)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.stream_stream("/digits.v1.DigitRecognizer/Classify")()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_tokens_can_be_replaced_while_the_server_runs(
    serving: Serving, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(token, "_LOOK_AGAIN_S", 0.0)
    async with serving(FakeEngine(), token_file=write(FIRST)) as server:
        write(FIRST, SECOND)
        assert await admitted(server.address, SECOND)
        assert await admitted(server.address, FIRST)
        write(SECOND)
        assert not await admitted(server.address, FIRST)
        caplog.clear()
        write()
        assert await admitted(server.address, SECOND), "a file that is being written shuts nobody out"
        assert await admitted(server.address, SECOND)
    assert caplog.text.count("the old tokens stay valid: --token-file") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--token-file .*tokens: No such file or directory; a file with one token a line was expected"),
        ("\n\n", r"--token-file .*tokens: empty; one token a line was expected"),
        (f"{FIRST}\nshort\n", r"line 2 has 5 bytes; a token has at least 16"),
        ("words with spaces between\n", r"line 1 has 25 bytes; .* printable ASCII without spaces"),
        (f"{FIRST}é\n", r"line 1 has 28 bytes"),
        ("x" * 70_000, r"more than 65536 bytes"),
    ],
)
def test_a_file_that_is_of_no_use_keeps_the_server_from_starting(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "tokens").write_text(content, "utf-8")
    with pytest.raises(StartupError, match=message) as refused:
        token.read_tokens(tmp_path / "tokens")
    assert "words" not in str(refused.value)
    assert FIRST not in str(refused.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_file_that_others_can_read_is_a_warning(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    token.read_tokens(write(FIRST, mode=mode))
    assert ("can be read by others" in caplog.text) == warned


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("0.0.0.0", True), ("[::]", True), ("host", True)],
)
def test_a_token_in_the_clear_over_a_network_is_a_warning(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, host: str, warned: bool
) -> None:
    token.interceptors(ServeConfig(host=host, token_file=write(FIRST)))
    assert ("readable by everybody" in caplog.text) == warned


def test_without_a_file_nothing_stands_before_the_methods() -> None:
    assert token.interceptors(ServeConfig()) == []
