"""Routes of the viewer and their responses; documented in docs/viewer.md.

Slides are identified by ids of the collection and static files by a table: no part of an address is ever used as a
path.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from wsi_attn import assets
from wsi_attn.errors import SlideNotFoundError, UnexpectedError, WsiAttnError, as_failure
from wsi_attn.geometry import ORIGIN, Mpp, Point
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.lru import LruCache
from wsi_attn.paths import printable
from wsi_attn.viewer import records
from wsi_attn.viewer.access import Access, AccessMiddleware
from wsi_attn.viewer.cache import Pool, Waiting
from wsi_attn.viewer.collection import Collection, Entry
from wsi_attn.viewer.overlays import PolygonRecord, layer_png, load_overlay, outline, polygons_of
from wsi_attn.viewer.tiles import TileApp
from wsi_attn.viewer.viewer_slide import ViewerSlide

OPEN_SLIDES = 6
"""Number of slides held open: enough to switch back and forth, few enough for their file handles and indexes."""

CACHE_BYTES = 64 << 20
"""Size of the cache of rendered tiles, about two thousand tiles."""

REVALIDATE = "private, no-cache"

SCRIPTS = ("main", "stage", "overlay", "list", "panel", "link", "keys", "preview")
STATIC = {"viewer.css": "text/css", **{f"{name}.js": "text/javascript" for name in SCRIPTS}}
OPENSEADRAGON = "openseadragon.js"

BEGINNING = '<script type="application/json" id="beginning">{}'
"""Element of the page that contains its initial data."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """Server settings: who may connect, the pixel size of slides without one, and the number of threads."""

    access: Access
    slide_mpp: Mpp | None = None
    workers: int = 4


def create_app(collection: Collection, settings: Settings) -> AccessMiddleware:
    """Create the ASGI application."""
    viewer = Viewer(collection, settings)
    return AccessMiddleware(TileApp(viewer.app, collection.entries, viewer.slides), settings.access)


class Viewer:
    """Request handlers; owns the open slides, the tile cache and the reader threads."""

    def __init__(self, collection: Collection, settings: Settings) -> None:
        self.collection = collection
        self.cache: LruCache[bytes] = LruCache(CACHE_BYTES)
        pool: Pool[ViewerSlide] = Pool(partial(self._open, slide_mpp=settings.slide_mpp), OPEN_SLIDES)
        self.threads = ThreadPoolExecutor(settings.workers, "tiles")
        self.slides = Waiting(pool, self.threads)
        self._static = _static_files()
        self.app = Starlette(
            routes=[
                Route("/slides/{key}.dzi", self.deepzoom),
                Route("/slides/{key}/layers/{index}.png", self.layer),
                Route("/slides/{key}/tissue.json", self.tissue),
                Route("/slides/{key}/polygons.json", self.polygons),
                Route("/slides/{key}.json", self.slide),
                Route("/slides.json", self.slide_list),
                Route("/", self.page),
                Route("/static/{name}", self.static),
                Route("/favicon.ico", _no_icon),
            ],
            exception_handlers={WsiAttnError: _explain, Exception: _explain},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self.threads.submit(self._warm)
        yield
        self.threads.shutdown(wait=False, cancel_futures=True)  # Reading a file may take for ever.
        self.slides.pool.close()

    def _warm(self) -> None:
        """Prepare the first page in advance: load decoders, open the first slide, render its overview."""
        for key, entry in self.collection.entries.items():
            if entry.path is not None:
                try:
                    with self.slides.pool.use(key) as slide:
                        records.with_pixels(entry, slide)
                        slide.tile(slide.levels[0], 0, 0)
                except Exception:  # noqa: S112
                    continue  # reported to the client that opens it
                return

    def _open(self, key: str, slide_mpp: Mpp | None) -> ViewerSlide:
        path = self.collection.entries[key].path
        if path is None:
            raise SlideNotFoundError("The slide of this prediction was not found; pass its path too")
        return ViewerSlide(path, self.cache, self.collection.mpps.get(path, slide_mpp))

    def _entry(self, request: Request) -> Entry:
        entry = self.collection.entries.get(request.path_params["key"])
        if entry is None:
            raise HTTPException(404, "no such slide")
        return entry

    def _list(self) -> JsonObject:
        found: list[Json] = [records.line(entry) for entry in self.collection.entries.values()]
        return {"slides": found, "problems": [_one_line(problem) for problem in self.collection.problems]}

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def _with_slide(self, entry: Entry, work: Callable[[ViewerSlide], Result]) -> Result:
        return await self.slides.run(entry.key, work)

    async def page(self, _request: Request) -> Response:
        """The page with the list and the record of the first slide, whose first tile need not wait for further
        responses.
        """
        beginning = self._list()
        entry = next((entry for entry in self.collection.entries.values() if entry.path is not None), None)
        if entry is not None:
            with suppress(Exception):  # reported when the page requests it
                beginning["record"] = await self._with_slide(entry, partial(records.with_pixels, entry))
        text = json.dumps(beginning, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
        head, mark, tail = _page().partition(BEGINNING)
        return HTMLResponse(f"{head}{mark[:-2]}{text}{tail}", headers={"Cache-Control": "private, no-store"})

    async def static(self, request: Request) -> Response:
        """Static files of the page."""
        name = request.path_params["name"]
        if name not in self._static:
            raise HTTPException(404, "no such file")
        content, kind = self._static[name]
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Cache-Control": REVALIDATE, "Content-Encoding": "gzip"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    async def slide_list(self, _request: Request) -> Response:
        """All entries: name, label, probabilities, uncertainty."""
        return JSONResponse(self._list(), headers={"Cache-Control": REVALIDATE})

    async def slide(self, request: Request) -> Response:
        """One entry: its levels, its prediction, its layers."""
        entry = self._entry(request)
        if entry.path is None:
            record = await self._run(partial(records.without_pixels, entry))
        else:
            record = await self._with_slide(entry, partial(records.with_pixels, entry))
        return JSONResponse(record, headers={"Cache-Control": REVALIDATE})

    async def deepzoom(self, request: Request) -> Response:
        """The DeepZoom descriptor."""
        descriptor = await self._with_slide(self._entry(request), lambda slide: slide.deepzoom.descriptor())
        return Response(descriptor, media_type="application/xml", headers={"Cache-Control": REVALIDATE})

    async def layer(self, request: Request) -> Response:
        """One layer of the prediction as an image, one pixel per cell."""
        entry, given = self._entry(request), request.path_params["index"]
        index = int(given) if re.fullmatch(r"[0-9]{1,4}", given) else -1

        def draw() -> bytes | None:
            layers = load_overlay(entry.prediction).layers if entry.prediction else ()
            return layer_png(layers[index]) if 0 <= index < len(layers) else None

        picture = await self._run(draw)
        if picture is None:
            raise HTTPException(404, "no such layer")
        return Response(picture, media_type="image/png", headers={"Cache-Control": REVALIDATE})

    async def tissue(self, request: Request) -> Response:
        """Outlines of the tissue."""
        rings = await self._with_slide(self._entry(request), lambda slide: outline(slide.tissue()))
        return JSONResponse({"rings": rings}, headers={"Cache-Control": REVALIDATE})

    async def _origin(self, entry: Entry) -> Point:
        """Origin of the coordinates in the entry's GeoJSON files, unless a file states another."""
        if entry.path is None or not entry.polygons:
            return ORIGIN
        return await self._with_slide(entry, lambda slide: slide.slide.info.origin)

    async def polygons(self, request: Request) -> Response:
        """Polygons of the GeoJSON files that belong to the slide."""
        entry = self._entry(request)
        found, problems = await self._run(partial(_polygons, entry, await self._origin(entry)))
        return JSONResponse({"polygons": found, "problems": problems}, headers={"Cache-Control": REVALIDATE})


def _polygons(entry: Entry, origin: Point) -> tuple[list[PolygonRecord], list[str]]:
    found: list[PolygonRecord] = []
    problems = []
    for path in entry.polygons:
        try:
            found.extend(polygons_of(path, origin))
        except Exception as error:
            problems.append(_one_line(as_failure(path, error)))
    return found, problems


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))


@cache
def _page() -> str:
    return (files("wsi_attn.viewer") / "static" / "index.html").read_text(encoding="utf-8")


@cache
def _static_files() -> dict[str, tuple[bytes, str]]:
    """By name: gzip content, which every browser accepts, and media type."""
    folder = files("wsi_attn.viewer") / "static"
    found = {name: ((folder / name).read_bytes(), kind) for name, kind in STATIC.items()}
    found[OPENSEADRAGON] = assets.read_text(f"openseadragon/{OPENSEADRAGON}").encode(), "text/javascript"
    return {name: (gzip.compress(content, mtime=0), kind) for name, (content, kind) in found.items()}


async def _no_icon(_request: Request) -> Response:
    return Response(status_code=204)


async def _explain(request: Request, error: Exception) -> Response:
    failure = as_failure(Path(request.url.path), error)
    status = 500 if isinstance(failure, UnexpectedError) else 422
    return JSONResponse({"error": _one_line(failure)}, status)
