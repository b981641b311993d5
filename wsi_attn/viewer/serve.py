"""Running the viewer: bind the socket, announce the address once the server responds, shut down cleanly."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack

from wsi_attn.errors import MissingExtraError, UsageError
from wsi_attn.geometry import Mpp
from wsi_attn.threads import thread_limit

try:
    import uvicorn

    from wsi_attn.viewer.access import Access, is_loopback
    from wsi_attn.viewer.app import Settings, create_app
except ImportError as error:
    raise MissingExtraError(
        f"The viewer needs the extra `view` ({error.name} is not installed): pip install 'wsi-attn[view]'"
    ) from error

from wsi_attn.viewer.collection import Collection

TOKEN_BYTES = 24
SECONDS_TO_END = 1
"""Seconds to wait for active requests on shutdown."""

MOST_WORKERS = 8
BACKLOG = 128
"""Maximum number of pending connections."""


SECONDS_TO_ASK = 10
"""Seconds within which a client must send a whole request; half-sent ones would hold connections for ever."""


def impatient(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return a protocol of uvicorn that closes connections on which no whole request arrives in time."""

    class Impatient(protocol):  # type: ignore[misc, valid-type]
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

        def _wait(self) -> None:
            """Start the time of a request that is not whole, unless it runs; stop that of one that is."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self._deadline is not None:
                    self._deadline.cancel()
                self._deadline = None
            elif self._deadline is None:
                self._deadline = self.loop.call_later(SECONDS_TO_ASK, self._give_up)

        def _give_up(self) -> None:
            self._deadline = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def serve(
    collection: Collection,
    *,
    host: str,
    port: int,
    needs_token: bool = False,
    allowed_hosts: tuple[str, ...] = (),
    root_path: str = "",
    slide_mpp: Mpp | None = None,
    workers: int | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until the process is interrupted.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 selects a free port.
    needs_token
        Require a token on loopback too, where other users of the machine could connect.
    allowed_hosts, root_path
        Names and path of a reverse proxy; see `Access`.
    on_ready
        Called with the address, including the token, once the server responds.

    Raises
    ------
    UsageError : the address is unavailable.
    """
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(TOKEN_BYTES) if needs_token or not is_loopback(host) else None
    access = Access(port, token, allowed_hosts, root_path)
    settings = Settings(access, slide_mpp, workers or min(MOST_WORKERS, thread_limit() + 2))
    config = uvicorn.Config(
        create_app(collection, settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
        ws="none",
    )
    config.load()
    config.http_protocol_class = impatient(config.http_protocol_class)
    address = f"http://{_in_address(host)}:{port}{root_path}/" + (f"?token={token}" if token else "")
    with listening:
        _Server(config, lambda: on_ready(address)).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as stack:
            # With an explicit protocol: only then does asyncio send small responses immediately.
            listening = stack.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            stack.pop_all()  # works as it is: left open
            return listening
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host} port {port}: {error.strerror}; try another --host or --port"
        ) from error


def _in_address(host: str) -> str:
    """A host as written in an address; a host that means every interface is replaced by this machine's name."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
