"""Encrypted connections: who is let in, and certificates that are renewed while the server runs."""

import datetime
import logging
import shutil
from pathlib import Path

import pytest
import trustme

from clients import AsyncDigitClient, ProtocolMismatch, ServerUnavailable, Tls
from serve.config import ServeConfig
from serve.errors import StartupError
from serve.rpc import tls
from tests.fakes import FakeEngine, images
from tests.serve.conftest import Serving


class Files:
    """A server's PEM files, and the client's that go with them."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.client_ca = (folder / name for name in ("server.crt", "server.key", "clients.crt"))
        self._folder = folder
        self._authorities = 0
        self.clients = trustme.CA()
        self.clients.cert_pem.write_to_path(self.client_ca)

    def renew(self, **options: object) -> Tls:
        """Write a new pair of another authority; returns what a client needs that trusts that one only."""
        authority = trustme.CA()
        self._authorities += 1
        root = self._folder / f"{self._authorities}.crt"
        authority.cert_pem.write_to_path(root)
        issued = authority.issue_cert("localhost", "127.0.0.1", **options)
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)
        return Tls(root=root)

    def client(self, root: Path) -> Tls:
        """One with a certificate that the server accepts."""
        issued = self.clients.issue_cert("client@example.org")
        cert, key = self._folder / "client.crt", self._folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        return Tls(root=root, cert=cert, key=key)

    def config(self, **options: object) -> ServeConfig:
        return ServeConfig(tls_cert=self.cert, tls_key=self.key, **options)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def answers(address: str, client_tls: Tls | None) -> bool:
    """Whether a new client, with a connection of its own, gets an answer."""
    async with AsyncDigitClient(address, tls=client_tls) as client:
        try:
            return len((await client.classify(images(2))).predictions) == 2
        except (ProtocolMismatch, ServerUnavailable):
            return False


async def test_who_trusts_the_certificate_is_answered_and_nobody_else(serving: Serving, files: Files) -> None:
    trusted = files.renew()
    async with serving(FakeEngine(), tls_cert=files.cert, tls_key=files.key) as server:
        assert await answers(server.address, trusted)
        assert not await answers(server.address, Tls(root=files.client_ca))
        assert not await answers(server.address, None), "the port speaks TLS only"


async def test_an_encrypted_call_to_a_port_in_the_clear_fails_and_harms_nobody(serving: Serving, files: Files) -> None:
    trusted = files.renew()
    async with serving(FakeEngine()) as server:
        assert not await answers(server.address, trusted)
        assert await answers(server.address, None)


async def test_with_a_client_authority_clients_must_show_a_certificate_of_it(serving: Serving, files: Files) -> None:
    trusted = files.renew()
    options = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.client_ca}
    async with serving(FakeEngine(), **options) as server:
        assert await answers(server.address, files.client(trusted.root))
        assert not await answers(server.address, trusted)
        files.clients = trustme.CA()
        assert not await answers(server.address, files.client(trusted.root))


async def test_a_renewed_certificate_is_shown_to_the_next_connection_and_the_others_go_on(
    serving: Serving, files: Files
) -> None:
    before = files.renew()
    async with (
        serving(FakeEngine(), tls_cert=files.cert, tls_key=files.key) as server,
        AsyncDigitClient(server.address, tls=before) as client,
    ):
        await client.classify(images(1))
        after = files.renew()
        assert await answers(server.address, after)
        assert not await answers(server.address, before)
        await client.classify(images(1))


async def test_files_that_do_not_fit_leave_the_old_certificate_in_use_and_are_logged_once(
    serving: Serving, files: Files, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    before = files.renew()
    async with serving(FakeEngine(), tls_cert=files.cert, tls_key=files.key) as server:
        old_key = files.key.read_bytes()
        after = files.renew()
        new_key = files.key.read_bytes()
        for spoilt in (old_key, new_key[: len(new_key) // 2], b""):
            files.key.write_bytes(spoilt)
            caplog.clear()
            assert await answers(server.address, before)
            assert await answers(server.address, before)
            assert [record.levelname for record in caplog.records if record.name == tls.log.name] == ["ERROR"]
            assert "the old certificate stays in use" in caplog.text
        files.key.write_bytes(new_key)
        assert await answers(server.address, after)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: files.cert.unlink(), r"server\.crt: No such file or directory; a PEM file was expected"),
        (lambda files: files.key.write_text("nothing"), r"server\.key: .*the private key that belongs to it"),
        (lambda files: files.cert.write_text("nothing"), r"server\.crt and .*: .*a certificate in PEM was expected"),
        (lambda files: shutil.copy(_other_key(files), files.key), r"key values mismatch"),
        (lambda files: files.client_ca.write_text("nothing"), r"clients\.crt: .*certificates in PEM were expected"),
        (lambda files: _encrypt(files.key), r"the private key that belongs to it, not encrypted"),
    ],
)
def test_the_server_does_not_start_with_files_that_do_not_fit(files: Files, spoil: object, message: str) -> None:
    files.renew()
    spoil(files)  # type: ignore[operator]
    with pytest.raises(StartupError, match=message):
        tls.credentials(files.config(tls_client_ca=files.client_ca))


def test_a_certificate_that_has_expired_is_a_warning(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    past = [datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2020, 2021)]
    files.renew(not_before=past[0], not_after=past[1])
    with caplog.at_level(logging.WARNING):
        assert tls.credentials(files.config())
    assert "server.crt: clients will not accept it: certificate has expired" in caplog.text


def test_without_files_there_is_no_tls_and_a_file_alone_is_a_mistake(files: Files) -> None:
    assert tls.credentials(ServeConfig()) is None
    with pytest.raises(StartupError, match=r"--tls-key is None; expected a file exactly if --tls-cert is given"):
        ServeConfig(tls_cert=files.cert)
    with pytest.raises(StartupError, match=r"--tls-client-ca is .*; expected no file without --tls-cert"):
        ServeConfig(tls_client_ca=files.client_ca)


def _other_key(files: Files) -> Path:
    other = files.key.with_name("other.key")
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(other)
    return other


def _encrypt(key: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, password))
