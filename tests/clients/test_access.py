"""Encryption and tokens as the clients and their command lines use them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from PIL import Image

from clients import AccessDenied, AsyncDigitClient, DigitClient, DigitError, ServerUnavailable, Tls
from clients.access import AccessOptions
from tests.clients.test_commands import run

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with what both ends need."""
    folder = tmp_path_factory.mktemp("access")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "root.crt")
    for name, identity in (("server", "127.0.0.1"), ("client", "client@example.org")):
        issued = authority.issue_cert(identity)
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "token").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def guarded(serving, files) -> Iterator[str]:
    """Address of a server that asks for everything it can ask for."""
    tls = ("--tls-cert", files / "server.crt", "--tls-key", files / "server.key", "--tls-client-ca", files / "root.crt")
    with serving(*map(str, tls), "--token-file", str(files / "token")) as address:
        yield address


@pytest.fixture
def tls(files) -> Tls:
    return Tls(root=files / "root.crt", cert=files / "client.crt", key=files / "client.key")


def test_both_clients_are_answered_call_and_stream(guarded, tls, images):
    with DigitClient(guarded, tls=tls, token=TOKEN) as client:
        digits = client.classify(images).digits
        assert [list(answer.digits) for answer in client.stream([images])] == [list(digits)]
        client.wait_until_ready()
        assert client.get_model().name == "compact"

    async def ask() -> None:
        async with AsyncDigitClient(guarded, tls=tls, token=TOKEN) as client:
            np.testing.assert_array_equal((await client.classify(images)).digits, digits)

    asyncio.run(ask())


@pytest.mark.parametrize("token", [None, "another-token-of-some-length"])
def test_a_wrong_token_has_an_exception_of_its_own_and_is_not_tried_again(guarded, tls, images, token):
    with (
        DigitClient(guarded, tls=tls, token=token) as client,
        pytest.raises(AccessDenied, match="authorization: Bearer TOKEN"),
    ):
        client.classify(images)


def test_a_server_that_encrypts_is_told_from_one_that_is_not_there(guarded, files, images, free_address):
    """By an address: of the several that a name stands for gRPC tells one failure only."""
    port = guarded.split(":")[1]
    for tls in (None, Tls(root=files / "root.crt")):
        with DigitClient(guarded, tls=tls) as client, pytest.raises(ServerUnavailable, match="hangs up at once; if it"):
            client.classify(images)
    for address in (f"localhost:{port}", f"localhost:{free_address.split(':')[1]}"):
        with (
            DigitClient(address) as client,
            pytest.raises(ServerUnavailable, match=r"does it encrypt as this client does\?|hangs up at once; if it"),
        ):
            client.classify(images)
    with DigitClient(free_address) as client, pytest.raises(ServerUnavailable) as absent:
        client.classify(images)
    assert "encrypt" not in str(absent.value)


def test_files_that_cannot_be_used_are_named(files):
    with pytest.raises(DigitError, match=r"nope\.crt: cannot be read: No such file"):
        DigitClient("127.0.0.1:1", tls=Tls(root=files / "nope.crt"))
    with pytest.raises(DigitError, match=r"a client certificate needs its private key"):
        DigitClient("127.0.0.1:1", tls=Tls(root=files / "root.crt", cert=files / "client.crt"))
    with pytest.raises(DigitError, match=r"server\.key: no certificate in PEM"):
        DigitClient("127.0.0.1:1", tls=Tls(root=files / "server.key"))
    with pytest.raises(DigitError, match=r"client\.crt and .*server\.key: a certificate in PEM and its own, unenc"):
        DigitClient(
            "127.0.0.1:1", tls=Tls(root=files / "root.crt", cert=files / "client.crt", key=files / "server.key")
        )
    with pytest.raises(DigitError, match=r"--tls-cert and --tls-key are of no use without --tls-root"):
        AccessOptions(tls_cert=files / "client.crt").tls()


@pytest.mark.parametrize("token", ["", f"{TOKEN}\n", "two words", "schlüssel"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token):
    with pytest.raises(DigitError, match="printable ASCII was expected") as refused:
        DigitClient("127.0.0.1:1", token=token)
    assert TOKEN not in str(refused.value)


def test_a_token_comes_from_its_file_else_from_the_environment(files, monkeypatch):
    monkeypatch.setenv("DIGITS_TOKEN", "another")
    assert AccessOptions().token() == "another"
    assert AccessOptions(token_file=files / "token").token() == TOKEN
    monkeypatch.setenv("DIGITS_TOKEN", "")
    assert AccessOptions().token() is None
    monkeypatch.delenv("DIGITS_TOKEN")
    assert AccessOptions().token() is None


def test_the_command_lines_have_flags_for_all_of_it(guarded, files, images, tmp_path):
    Image.fromarray(images[0] // 2).save(tmp_path / "digit.png")
    flags = ["--address", guarded, "--tls-root", files / "root.crt", "--tls-cert", files / "client.crt"]
    flags += ["--tls-key", files / "client.key", "--token-file", files / "token"]
    assert run("classify", tmp_path / "digit.png", *flags).returncode == 0
    done = run("benchmark", *flags, "--duration-s", 0.3, "--warmup-s", 0.1, "--concurrency", 1)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    done = run("classify", tmp_path / "digit.png", *flags[:2])
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
