"""What keeps other web sites from using this page's server, and foreign code from running in the page."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from clients.web.errors import refusal

# Everything comes from this server, in files of its own: no script or style within the page, no frame around it.
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class SameOrigin:
    """ASGI middleware: refuses requests under a foreign name, and those that another site's page sends.

    A site may have its name resolve to this machine to read what is served here (DNS rebinding); it cannot do so with
    an address. So the Host must be an address, `localhost`, or the name that the server was told to listen at.
    """

    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self.app = app
        self._names = ("localhost", name.lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse a request, as ASGI has it."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        app = self.app
        if not self._is_ours(host):
            app = refusal(421, f"nothing is served as {host!r:.80}; open this page by the address of its machine")
        elif origin is not None and origin.partition("://")[2] != host:
            app = refusal(403, "only this page itself may ask its server")
        await app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
