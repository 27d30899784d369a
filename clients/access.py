"""What a server may ask of its callers: to speak TLS, to show a certificate, to know a token."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import grpc

from clients.errors import DigitError

TOKEN_VARIABLE = "DIGITS_TOKEN"


@dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM files for an encrypted connection.

    Attributes:
        root: The certificates that vouch for the server. Its own must be for the address that is called, or for
            `server_name`.
        cert: The client's certificate, where the server asks for one.
        key: Its private key.
        server_name: The name that the server's certificate is for, where that is not the address.
    """

    root: Path
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC opens a channel with.

        Raises:
            DigitError: A file cannot be read or is no such PEM file, or there is a certificate without a key.
        """
        if (self.cert is None) != (self.key is None):
            raise DigitError("a client certificate needs its private key, and the other way round; give both or none")
        root, key, cert = (None if path is None else _read(path) for path in (self.root, self.key, self.cert))
        self._check()
        return grpc.ssl_channel_credentials(root, key, cert)

    def _check(self) -> None:
        """Load the files as OpenSSL does: gRPC would say of wrong ones only, at a call, that no server answers."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.root)
        except ssl.SSLError as error:
            raise DigitError(
                f"{self.root}: no certificate in PEM that can be read; one that vouches for the server was expected"
            ) from error
        try:
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password="")
        except ssl.SSLError as error:
            raise DigitError(
                f"{self.cert} and {self.key}: a certificate in PEM and its own, unencrypted key were expected"
            ) from error


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What every call brings along.

    Raises:
        DigitError: The token cannot be sent.
    """
    if token is None:
        return ()
    if not re.fullmatch("[!-~]+", token):
        raise DigitError(
            "the token is empty, or has a blank, a line's end or a letter beyond ASCII; "
            "printable ASCII was expected: `.strip()` what was read from a file"
        )
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Encryption and token, where the server asks for them."""

    tls_root: Path | None = None
    """PEM file with the certificates that vouch for the server; calls are encrypted if it is given."""

    tls_cert: Path | None = None
    """PEM file with the client's certificate, where the server asks for one."""

    tls_key: Path | None = None
    """PEM file with its private key."""

    token_file: Path | None = None
    """File whose first line is the token that the server asks for. Default: the environment's DIGITS_TOKEN, if any."""

    def tls(self) -> Tls | None:
        """The files, if any.

        Raises:
            DigitError: Some are given that need another.
        """
        if self.tls_root is not None:
            return Tls(root=self.tls_root, cert=self.tls_cert, key=self.tls_key)
        if self.tls_cert or self.tls_key:
            raise DigitError("--tls-cert and --tls-key are of no use without --tls-root; give it as well")
        return None

    def token(self) -> str | None:
        """The token, if any.

        Raises:
            DigitError: The file cannot be read, or holds none.
        """
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        lines = _read(self.token_file).decode("ascii", "replace").split()
        if not lines:
            raise DigitError(f"{self.token_file} is empty; a token was expected")
        return lines[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DigitError(f"{path}: cannot be read: {error.strerror}") from error
