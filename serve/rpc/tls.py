"""TLS: whose certificate the server shows, and whose it asks for. Renewed files are taken up by the next connection."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import grpc

from serve.config import ServeConfig
from serve.errors import StartupError
from serve.rpc.renewal import Renewal

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The PEM files of one server.

    Attributes:
        cert: Its certificate, then those that vouch for it.
        key: The private key.
        client_ca: What vouches for clients; None admits clients without a certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, config: ServeConfig) -> Self | None:
        """The one that is configured, if any."""
        if config.tls_cert is None or config.tls_key is None:
            return None
        return cls(cert=config.tls_cert, key=config.tls_key, client_ca=config.tls_client_ca)

    def check(self) -> None:
        """Whether the files fit together; a certificate that no client will accept any more is a warning.

        Raises:
            StartupError: They do not, or cannot be read.
        """
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for path in (self.cert, self.key, self.client_ca):
            try:
                _ = path and path.read_bytes()
            except OSError as error:
                raise StartupError(f"{path}: {error.strerror}; a PEM file was expected") from error
        try:
            # A key that is encrypted would else be asked for at the terminal.
            server.load_cert_chain(self.cert, self.key, password="")
            client.load_verify_locations(self.cert)
        except ssl.SSLError as error:
            raise StartupError(
                f"{self.cert} and {self.key}: {_reason(error)}; a certificate in PEM was expected, and the private key "
                "that belongs to it, not encrypted"
            ) from error
        if self.client_ca:
            try:
                server.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise StartupError(f"{self.client_ca}: {_reason(error)}; certificates in PEM were expected") from error
        if complaint := _complaint(server, client):
            log.warning("%s: clients will not accept it: %s", self.cert, complaint)

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The files as they are now.

        Raises:
            StartupError: See `check`.
        """
        self.check()
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        client_ca = self.client_ca.read_bytes() if self.client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], client_ca)


def credentials(config: ServeConfig) -> grpc.ServerCredentials | None:
    """What the port is opened with; None where it does not speak TLS.

    Raises:
        StartupError: See `Identity.check`.
    """
    identity = Identity.of(config)
    if identity is None:
        return None
    files = Renewal(*filter(None, (identity.cert, identity.key, identity.client_ca)))

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC, on a thread of its own, before every handshake."""
        if not files.changed():
            return None
        try:
            certificates = identity.read()
        except (StartupError, OSError) as error:
            log.error("the old certificate stays in use: %s", error)
            return None
        log.info("%s was read again", identity.cert)
        return certificates

    # None, for no change, is missing in the types.
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], renewed)
    return grpc.dynamic_ssl_server_credentials(identity.read(), fetch, identity.client_ca is not None)


def _complaint(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """What a client that trusts this very certificate finds wrong with it, in a handshake in memory."""
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in (*ends, *ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").replace("_", " ").lower()
