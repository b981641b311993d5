"""Access control by host name and token, and the security headers of every response.

A page of another site can make a browser send requests here (DNS rebinding, cross-site requests). On loopback the Host
header must therefore be a loopback name; on other interfaces a random token is required, once in the address and then
as a cookie.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
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

ERRORS = 400
"""The lowest status of an error."""

_HOST = re.compile(r"(?:([A-Za-z0-9._~-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
"""A Host header: a name or an address, an IPv6 one in brackets, and perhaps a port."""


def is_loopback(host: str) -> bool:
    """Whether an address or name can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may connect, and under which path.

    Attributes
    ----------
    port
        Part of the cookie's name, since cookies do not distinguish ports.
    token
        Required from every client if set; without it, only requests to a loopback name or one of `hosts` pass.
    hosts
        Further names in the Host header, those of reverse proxies.
    root
        Path under which a reverse proxy offers the viewer, without a slash at its end; the proxy may remove it or not.
    """

    port: int
    token: str | None = None
    hosts: tuple[str, ...] = ()
    root: str = ""


class AccessMiddleware:
    """ASGI middleware that rejects unauthorised requests, and answers 500 to those that fail unexpectedly."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access, self.token = app, access, access.token
        self.hosts = {host.lower() for host in access.hosts}
        self.cookie = f"wsi_attn_{access.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request or pass it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope = self._below_root(scope)
        started = finished = False

        async def send_guarded(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                headers = [*message.get("headers", ()), *_RAW_HEADERS]
                if message["status"] >= ERRORS and b"cache-control" not in {name.lower() for name, _ in headers}:
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = headers
            elif not message.get("more_body", False):
                finished = True
            await send(message)

        try:
            await (self._refusal(scope) or self.app)(scope, receive, send_guarded)
        except Exception as error:
            if finished:  # Starlette raises again after its answer.
                return None
            if started:
                raise
            text = f"unexpected {type(error).__name__}; the other slides are not affected"
            await PlainTextResponse(text, 500)(scope, receive, send_guarded)
        return None

    def _below_root(self, scope: Scope) -> Scope:
        """The request as without a reverse proxy: its path without `root`."""
        root, path = self.access.root, scope["path"]
        if root and path.startswith(f"{root}/"):
            return {**scope, "path": path.removeprefix(root)}
        return scope

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] not in METHODS:
            return PlainTextResponse("Only GET", 405, {"Allow": "GET, HEAD"})
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["path"] == self.access.root:  # The addresses of the page are relative to a folder.
            return RedirectResponse(f"{self.access.root}/" + _query(scope["query_string"].decode("latin-1")), 307)
        if self.token is None:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            known = len(hosts) == 1 and self._is_known(hosts[0])
            return None if known else PlainTextResponse("Unknown host name; see --allowed-host", 421)
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = [value for name, value in query if name == "token"]
        if self._is_right(given):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # two slashes would refer to another host
            response = RedirectResponse(self.access.root + path + _query(rest), 303)
            response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            response.headers["Cache-Control"] = "no-store"
            return response
        if self._is_right(self._cookies(headers.get(b"cookie", b""))):
            return None
        return PlainTextResponse("The address lacks the token printed by `wsi-attn view`", 403)

    def _is_known(self, header: str) -> bool:
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name, bracketed = found.groups()
        if bracketed is not None:
            return (":" in bracketed and is_loopback(bracketed)) or f"[{bracketed}]".lower() in self.hosts
        return is_loopback(name) or name.lower() in self.hosts

    def _is_right(self, given: Iterable[str]) -> bool:
        token = (self.token or "").encode()
        return any(hmac.compare_digest(value.encode(), token) for value in given)

    def _cookies(self, header: bytes) -> list[str]:
        pairs = (part.strip().partition("=") for part in header.decode("latin-1").split(";"))
        return [value.strip('"') for name, _, value in pairs if name == self.cookie]


def _query(text: str) -> str:
    return f"?{text}" if text else ""
