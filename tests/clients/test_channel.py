"""Several servers, servers that come and go, and things that are no digit servers."""

import functools
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import grpc
import numpy as np
import pytest
import trustme

from clients import DigitClient, DigitError, ProtocolMismatch, ServerUnavailable, TimedOut, Tls, channel
from serve.config import ServeConfig
from serve.process import server_process
from tests.clients.conftest import ObedientServer

ONE = np.zeros((28, 28), np.uint8)


def call_until(client: DigitClient, done: Callable[[], object]) -> None:
    """Ends as soon as it is so, or with the test's time limit."""
    while not done():
        client.classify(ONE)


# Several servers


def test_servers_in_a_list_answer_in_turn(obedient, another):
    with DigitClient([obedient.address, another.address]) as client:
        call_until(client, lambda: obedient.calls and another.calls)
        before = len(obedient.calls), len(another.calls)
        for _ in range(10):
            client.classify(ONE)
    assert (len(obedient.calls) - before[0], len(another.calls) - before[1]) == (5, 5)


def test_all_that_a_name_stands_for_is_called(ask, obedient):
    port = obedient.address.rpartition(":")[2]
    assert list(ask("classify", f"dns:///localhost:{port}", ONE).digits) == [9]


def test_a_server_that_reports_itself_sick_is_left_out_until_it_is_well(obedient, another):
    obedient.report(serving=False)
    with DigitClient([obedient.address, another.address]) as client:
        for _ in range(20):
            client.classify(ONE)
        assert (len(obedient.calls), len(another.calls)) == (0, 20)
        obedient.report(serving=True)
        call_until(client, lambda: obedient.calls)
        obedient.report(serving=False)
        another.report(serving=False)
        with pytest.raises(ServerUnavailable):
            call_until(client, lambda: False)


def test_what_one_server_refuses_another_is_asked(obedient, another):
    with DigitClient([obedient.address, another.address]) as client:
        call_until(client, lambda: obedient.calls and another.calls)
        obedient.statuses = [grpc.StatusCode.UNAVAILABLE] * 100
        for _ in range(10):
            client.classify(ONE)
    assert len(obedient.statuses) < 100


def test_no_call_fails_while_one_of_two_servers_drains(bundle, tmp_path):
    ended = threading.Event()
    answered = [0] * 4

    def call_on(client: DigitClient, caller: int) -> None:
        while not ended.is_set():
            answered[caller] += len(client.classify(ONE).predictions)

    with (
        server_process(bundle, "--slots", "1", log=tmp_path / "staying") as staying,
        server_process(bundle, "--slots", "1", log=tmp_path / "leaving") as leaving,
        DigitClient([leaving.address, staying.address]) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        callers = [threads.submit(call_on, client, caller) for caller in range(4)]

        def until_all_have_ten_more_answers() -> None:
            goals = [count + 10 for count in answered]
            while not all(count >= goal for count, goal in zip(answered, goals, strict=True)):
                assert not any(caller.done() for caller in callers)
                client.classify(ONE)

        try:
            until_all_have_ten_more_answers()
            leaving.process.terminate()
            assert leaving.process.wait(30) == 0
            until_all_have_ten_more_answers()
        finally:
            ended.set()
        for caller in callers:
            caller.result()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "the address is ''; HOST:PORT was expected"),
        ("127.0.0.1", "HOST:PORT was expected"),
        ("127.0.0.1:99999", "a port of 1 to 65535"),
        ("127.0.0.1:0", "a port of 1 to 65535"),
        ("http://127.0.0.1:8001", "HOST:PORT was expected"),
        ([], "addresses are none; one or more IP:PORT"),
        (["127.0.0.1:1", "[::1]:1"], "one or more IP:PORT of one IP version were expected"),
        (["127.0.0.1:1", "localhost:1"], "'localhost:1' is no IP:PORT.*dns:///NAME:PORT"),
        (["127.0.0.1"], "'127.0.0.1' is no IP:PORT"),
        (["127.0.0.1:99999"], "'127.0.0.1:99999' is no IP:PORT"),
    ],
)
def test_addresses_that_cannot_be_reached_together_are_refused_at_once(address, message):
    with pytest.raises(DigitError, match=message):
        DigitClient(address)


# Servers that come and go


def test_waiting_ends_when_the_server_serves(ask, obedient):
    obedient.report(serving=False)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ask, "wait_until_ready", obedient.address, timeout_s=30)
        assert not waiting.done()
        obedient.report(serving=True)
        waiting.result()


def test_a_server_that_is_yet_to_be_started_can_be_waited_for(ask, free_address):
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ask, "wait_until_ready", free_address, timeout_s=30)
        with ObedientServer().serve(free_address):
            waiting.result()


def test_waiting_has_an_end(ask, obedient):
    obedient.report(serving=False)
    with pytest.raises(TimedOut, match=obedient.address):
        ask("wait_until_ready", obedient.address, timeout_s=0.2)


def test_the_servers_own_health_is_understood(ask, address):
    ask("wait_until_ready", address)
    ask("wait_until_ready", [address])


def test_a_client_closes_an_idle_connection_before_the_server_does(address, monkeypatch):
    assert ServeConfig.max_connection_idle_s * 1000 > channel._IDLE_MS
    monkeypatch.setattr(channel, "_OPTIONS", [*channel._OPTIONS[:-1], (channel._OPTIONS[-1][0], 1000)])
    seen: Queue[grpc.ChannelConnectivity] = Queue()
    with DigitClient(address) as client:
        client._channel.subscribe(seen.put)
        client.classify(ONE)
        states = iter(functools.partial(seen.get, timeout=60), None)
        assert grpc.ChannelConnectivity.READY in states
        assert grpc.ChannelConnectivity.IDLE in states


def test_a_restarted_server_is_found_again(free_address):
    with DigitClient(free_address) as client:
        with ObedientServer().serve(free_address):
            client.classify(ONE)
        with pytest.raises(ServerUnavailable):
            client.classify(ONE)
        with ObedientServer().serve(free_address):
            client.wait_until_ready(timeout_s=30)
            client.classify(ONE)


# Something else at the address


@pytest.fixture
def web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def authorities(tmp_path_factory) -> tuple[trustme.CA, Path, Path]:
    """One that vouches for the server, its PEM file, and that of one that does not."""
    folder = tmp_path_factory.mktemp("authorities")
    right, wrong = trustme.CA(), trustme.CA()
    right.cert_pem.write_to_path(folder / "right.crt")
    wrong.cert_pem.write_to_path(folder / "wrong.crt")
    return right, folder / "right.crt", folder / "wrong.crt"


@pytest.fixture
def encrypted(authorities) -> Iterator[str]:
    """A gRPC server without any method, whose certificate is for digits.example."""
    issued = authorities[0].issue_cert("digits.example")
    server = grpc.server(ThreadPoolExecutor(1))
    pair = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def test_a_web_server_is_called_one(ask, web_server):
    with pytest.raises(ProtocolMismatch, match=f"{web_server}: .*speaks no gRPC"):
        ask("classify", web_server, ONE)


def test_a_server_that_does_not_encrypt_is_called_so(obedient, authorities):
    with (
        DigitClient(obedient.address, tls=Tls(root=authorities[1])) as client,
        pytest.raises(ProtocolMismatch, match="does not encrypt; leave out the TLS files"),
    ):
        client.classify(ONE)


def test_a_server_that_encrypts_may_be_the_reason_when_it_hangs_up(ask, encrypted):
    for address in (encrypted, [encrypted]):
        with pytest.raises(ServerUnavailable, match="if it encrypts, TLS files are needed"):
            ask("classify", address, ONE)


def test_a_certificate_that_nobody_vouches_for_is_named(encrypted, authorities):
    with (
        DigitClient(encrypted, tls=Tls(root=authorities[2])) as client,
        pytest.raises(ProtocolMismatch, match="do not vouch for this server"),
    ):
        client.classify(ONE)


def test_a_certificate_for_another_name_is_named(encrypted, authorities):
    with (
        DigitClient(encrypted, tls=Tls(root=authorities[1])) as client,
        pytest.raises(ProtocolMismatch, match="certificate is for another name"),
    ):
        client.classify(ONE)


def test_a_server_without_the_method_is_no_digit_server(encrypted, authorities):
    for address in (encrypted, [encrypted]):
        with (
            DigitClient(address, tls=Tls(root=authorities[1], server_name="digits.example")) as client,
            pytest.raises(ProtocolMismatch, match="does not know the method; is it a digit server") as caught,
        ):
            client.classify(ONE)
        assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_what_never_speaks_holds_nobody_beyond_the_deadline(ask):
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimedOut):
        ask("classify", f"127.0.0.1:{silent.getsockname()[1]}", ONE, timeout_s=0.3)
