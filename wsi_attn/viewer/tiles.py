"""The addresses of tiles, answered without router or request object: they are nearly all that is ever asked for.

`/slides/ID/tiles/LEVEL/COLUMN_ROW.jpg` in the slide's own levels, coarsest first, and
`/slides/ID_files/LEVEL/COLUMN_ROW.jpg` as DeepZoom numbers them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor

from starlette.types import ASGIApp, Receive, Scope, Send

from wsi_attn.errors import WsiAttnError
from wsi_attn.viewer.cache import Pool
from wsi_attn.viewer.viewed import Tile, ViewedSlide

ADDRESS = re.compile(r"/slides/([0-9a-f]{1,64})(/tiles|_files)/(\d{1,9})/(\d{1,9})_(\d{1,9})\.jpg")
READERS: dict[str, Callable[[ViewedSlide, int, int, int], Tile | None]] = {
    "/tiles": ViewedSlide.tile,
    "_files": ViewedSlide.deepzoom_tile,
}

FOR_EVER = b"private, max-age=31536000, immutable"
"""For addresses that hold the slide's version: what they answer can never change."""
REVALIDATE = b"private, no-cache"

Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, Headers, bytes]


class TileApp:
    """ASGI application that answers tiles and hands everything else on.

    Parameters
    ----------
    keys
        Ids of the slides that may be asked for.
    slides, threads
        Where slides are opened and tiles are read.
    """

    def __init__(
        self, app: ASGIApp, keys: Container[str], slides: Pool[ViewedSlide], threads: ThreadPoolExecutor
    ) -> None:
        self.app, self.keys, self.slides, self.threads = app, keys, slides, threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        found = ADDRESS.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            return await self.app(scope, receive, send)
        key, kind, *numbers = found.groups()
        level, column, row = map(int, numbers)
        answer: Answer = (404, [], b"no such slide")
        if key in self.keys:
            known = next((value for name, value in scope["headers"] if name == b"if-none-match"), b"")
            versioned = scope["query_string"].startswith(b"v=")
            answer = await asyncio.get_running_loop().run_in_executor(
                self.threads, self._read, key, READERS[kind], (level, column, row), known, versioned
            )
        status, headers, body = answer
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        return None

    def _read(
        self,
        key: str,
        read: Callable[[ViewedSlide, int, int, int], Tile | None],
        place: tuple[int, int, int],
        known: bytes,
        versioned: bool,
    ) -> Answer:
        try:
            with self.slides.use(key) as slide:
                etag = f'"{slide.version}"'.encode()
                headers = [(b"etag", etag), (b"cache-control", FOR_EVER if versioned else REVALIDATE)]
                if known == etag:
                    return 304, headers, b""
                tile = read(slide, *place)
        except WsiAttnError as error:
            return 422, [(b"cache-control", b"no-store")], " ".join(str(error).split()).encode()
        if tile is None:
            return 404, [], b"no such tile"
        if not tile.whole:
            headers = [(b"x-unreadable", b"1"), (b"cache-control", b"no-store")]
        return 200, [(b"content-type", b"image/jpeg"), *headers], tile.data
