"""Access control by host name and token, and the security headers of every response.

A page of another site can make a browser send requests here (DNS rebinding, cross-site requests). On loopback the Host
header must therefore be a loopback name; on other interfaces a random token is required, once in the address and then
as a cookie.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
"""Hash of an empty style element: the page contains one so that OpenSeadragon does not create its own."""

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' {EMPTY_STYLE}; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
METHODS = {"GET", "HEAD"}


def is_loopback(host: str) -> bool:
    """Whether an address or name can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class AccessMiddleware:
    """ASGI middleware that rejects unauthorised requests.

    Parameters
    ----------
    token
        Required from every client if set; without it, only requests addressed to a loopback name pass.
    port
        Part of the cookie's name, since cookies do not distinguish ports.
    """

    def __init__(self, app: ASGIApp, token: str | None, port: int) -> None:
        self.app, self.token = app, token
        self.cookie = f"wsi_attn_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request or pass it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = self._refusal(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_RAW_HEADERS]
            await send(message)

        await (refusal or self.app)(scope, receive, send_guarded)
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] not in METHODS:
            return PlainTextResponse("Only GET", 405, {"Allow": "GET, HEAD"})
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self.token is None:
            host = headers.get(b"host", b"").decode("latin-1")
            return None if is_loopback(_without_port(host)) else PlainTextResponse("Unknown host name", 421)
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = [value for name, value in query if name == "token"]
        if self._is_right(given):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # two slashes would refer to another host
            response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            response.headers["Cache-Control"] = "no-store"
            return response
        if self._is_right(self._cookies(headers.get(b"cookie", b""))):
            return None
        return PlainTextResponse("The address lacks the token printed by `wsi-attn view`", 403)

    def _is_right(self, given: Iterable[str]) -> bool:
        token = (self.token or "").encode()
        return any(hmac.compare_digest(value.encode(), token) for value in given)

    def _cookies(self, header: bytes) -> list[str]:
        pairs = (part.strip().partition("=") for part in header.decode("latin-1").split(";"))
        return [value.strip('"') for name, _, value in pairs if name == self.cookie]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
