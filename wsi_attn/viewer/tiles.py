"""Tile routes, served without router or request object since they are nearly all requests.

`/slides/ID/tiles/LEVEL/COLUMN_ROW.jpg` uses the slide's own levels, coarsest first, and
`/slides/ID_files/LEVEL/COLUMN_ROW.jpg` the DeepZoom numbering.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from wsi_attn.errors import WsiAttnError
from wsi_attn.paths import printable
from wsi_attn.viewer.cache import Waiting
from wsi_attn.viewer.pyramid import TileLevel
from wsi_attn.viewer.viewer_slide import Tile, ViewerSlide

ADDRESS = re.compile(r"/slides/([0-9a-f]{1,64})(/tiles|_files)/(\d{1,9})/(\d{1,9})_(\d{1,9})\.jpg")
LEVELS: dict[str, Callable[[ViewerSlide, int, int, int], TileLevel | None]] = {
    "/tiles": ViewerSlide.level,
    "_files": ViewerSlide.deepzoom_level,
}

FOR_EVER = b"private, max-age=31536000, immutable"
"""Cache header of addresses that contain the slide's version: their content never changes."""
REVALIDATE = b"private, no-cache"

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass(frozen=True)
class TileRequest:
    """A tile request; `known`: the browser's etag, `versioned`: the address contains the version."""

    key: str
    kind: str
    place: tuple[int, int, int]
    known: bytes
    versioned: bool


class TileApp:
    """ASGI application that serves tiles and passes on all other requests.

    Stored tiles of open slides are served immediately: reading a few kilobytes takes less time than handing over to a
    thread. Opening and rendering use threads.

    Parameters
    ----------
    keys
        Ids of the available slides.
    slides
        Open slides, and the threads that read tiles.
    """

    def __init__(self, app: ASGIApp, keys: Container[str], slides: Waiting[ViewerSlide]) -> None:
        self.app, self.keys, self.slides = app, keys, slides

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a tile or pass the request on."""
        found = ADDRESS.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return await self.app(scope, receive, send)
        wanted = _wanted(found, scope)
        answer = self._at_once(wanted)
        if answer is None:
            answer = await self._read(wanted)
        status, headers, body = answer
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        return None

    def _at_once(self, wanted: TileRequest) -> Answer | None:
        if wanted.key not in self.keys:
            return 404, [], b"no such slide"
        with self.slides.pool.use_if_open(wanted.key) as slide:
            return _answer(slide, wanted, ViewerSlide.stored_tile) if slide else None

    async def _read(self, wanted: TileRequest) -> Answer:
        try:
            answer = await self.slides.run(wanted.key, lambda slide: _answer(slide, wanted, ViewerSlide.tile))
            return answer or (404, [], b"no such tile")
        except WsiAttnError as error:
            return 422, [], printable(" ".join(str(error).split())).encode()


def _wanted(found: re.Match[str], scope: Scope) -> TileRequest:
    key, kind, *numbers = found.groups()
    level, column, row = map(int, numbers)
    known = next((value for name, value in scope["headers"] if name == b"if-none-match"), b"")
    return TileRequest(key, kind, (level, column, row), known, scope["query_string"].startswith(b"v="))


def _answer(
    slide: ViewerSlide, wanted: TileRequest, read: Callable[[ViewerSlide, TileLevel, int, int], Tile | None]
) -> Answer | None:
    """Response with the tile, if `read` returns it."""
    etag = f'"{slide.version}"'.encode()
    headers = [(b"etag", etag), (b"cache-control", FOR_EVER if wanted.versioned else REVALIDATE)]
    if wanted.known == etag:
        return 304, headers, b""
    level = LEVELS[wanted.kind](slide, *wanted.place)
    tile = read(slide, level, *wanted.place[1:]) if level else None
    if tile is None:
        return None
    if not tile.whole:
        headers = [(b"x-unreadable", b"1"), (b"cache-control", b"no-store")]
    return 200, [(b"content-type", b"image/jpeg"), *headers], tile.data
