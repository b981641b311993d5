"""Tile pyramid of a slide, with or without a coloured layer, whose levels halve.

Tiles are made depth first: the finest are read and each coarser one is the mean of the four below it. Every pixel of
the slide is read once, and a few dozen tiles are in memory for any slide size.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from wsi_attn.errors import SlideReadError
from wsi_attn.export.exporter import Entries
from wsi_attn.export.job import Job
from wsi_attn.export.source import NO_LAYER
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.heatmaps.appearance import USUAL, Appearance
from wsi_attn.heatmaps.contact_sheet import UNREADABLE
from wsi_attn.heatmaps.layer import Layer, display_values
from wsi_attn.heatmaps.picture import overlay
from wsi_attn.heatmaps.raster import resample
from wsi_attn.slide import Progress, Slide, UInt8Array, background, no_progress
from wsi_attn.slides.resample import halve
from wsi_attn.slides.view import read_region_at
from wsi_attn.threads import thread_limit

TOGETHER = 2
"""Levels below a tile whose finest tiles are read together: 16 tiles, work for as many threads."""

Emit = Callable[[int, int, int, UInt8Array], None]
"""Called with level (0 the finest), row and column of a tile, and its pixels, smaller at the right and bottom edge;
from several threads, in no order."""


class Painter:
    """Pixels of any region of a frame over the slide, optionally with colours.

    Attributes
    ----------
    unreadable
        Number of tiles that could not be (fully) decoded; they are grey and have no colour.
    """

    def __init__(self, slide: Slide, frame: Frame, layer: Layer | None, look: Appearance = USUAL) -> None:
        self.frame = frame
        self.unreadable = 0
        self._slide = slide
        self._layer, self._look = layer, look
        self._values = display_values(layer, look.mode).values if layer else None
        self._lock = threading.Lock()

    def paint(self, region: Region) -> UInt8Array:
        """uint8 (rows, columns, 3) of a region in pixels of the frame."""
        x, y = region.x * self.frame.downsample_x, region.y * self.frame.downsample_y
        try:
            pixels = read_region_at(
                self._slide, (x, y), self.frame.downsample_x, self.frame.downsample_y, (region.width, region.height)
            )
        except SlideReadError:
            with self._lock:
                self.unreadable += 1
            return np.full((region.height, region.width, 3), UNREADABLE, np.uint8)
        if self._layer is None or self._values is None:
            return pixels
        values = resample(self._values, self._layer.frame, self.frame, region)
        if np.isnan(values).all():
            return pixels
        return overlay(pixels, values, self._look.alpha, self._look.colour)


@dataclass(frozen=True)
class Painted:
    """A slide that an export draws.

    Attributes
    ----------
    origin
        Provenance that the file states.
    """

    painter: Painter
    slide: Slide
    of: str
    origin: Mapping[str, object]

    @property
    def entries(self) -> Entries:
        """What the export reports; complete once the painter is used up."""
        frame = self.painter.frame
        return {
            "of": self.of,
            "downsample": [frame.downsample_x, frame.downsample_y],
            "unreadable_tiles": self.painter.unreadable,
        }


@contextmanager
def painted(job: Job, side: int | None) -> Iterator[Painted]:
    """Open the slide of a job to draw it with the colours of the quantity, if one is shown.

    Parameters
    ----------
    side
        Longer side in pixels unless another is requested; None for all pixels of level 0.
    """
    of, subject = job.of, job.subject
    layer = None if of == NO_LAYER else subject.layer(of)
    with subject.pixels() as slide:
        finest = slide.info.levels[0]  # those of a store, which may be coarser than the slide
        frame = job.frame(side, max(1.0, min(finest.downsample_x, finest.downsample_y)))
        yield Painted(Painter(slide, frame, layer, job.config), slide, of, {**subject.origin, "of": of})


def level_sizes(size: Size, smallest: int) -> list[Size]:
    """Sizes of the levels, finest first, each halved and rounded up, until both sides fit `smallest`."""
    sizes = [size]
    while max(sizes[-1]) > smallest:
        sizes.append(Size(-(-sizes[-1].width // 2), -(-sizes[-1].height // 2)))
    return sizes


def build_pyramid(
    painter: Painter, tile: int, sizes: list[Size], emit: Emit, workers: int | None, progress: Progress = no_progress
) -> None:
    """Make every tile of every level and pass it to `emit`.

    Parameters
    ----------
    painter
        Of the finest level.
    tile
        Side of a tile.
    sizes
        Sizes of the levels, from `level_sizes`.
    workers
        Threads; `thread_limit` by default.
    """
    finest = sizes[0]
    total = math.ceil(finest.width / tile) * math.ceil(finest.height / tile)
    done = 0
    top = next((level for level, size in enumerate(sizes) if max(size) <= tile), len(sizes) - 1)

    def leaf(place: tuple[int, int]) -> UInt8Array | None:
        region = _region(finest, tile, *place)
        if region is None:
            return None
        pixels = painter.paint(region)
        emit(0, *place, pixels)
        return pixels

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers or thread_limit()) as pool:

        def node(level: int, row: int, column: int) -> UInt8Array | None:
            nonlocal done
            region = _region(sizes[level], tile, row, column)
            if region is None:
                return None
            if level <= TOGETHER:
                span = range(2**level)
                places = [(row * 2**level + r, column * 2**level + c) for r in span for c in span]
                tiles = dict(zip(places, pool.map(leaf, places), strict=True))
                done += sum(found is not None for found in tiles.values())
                progress(done, total, "tiles")
                for coarser in range(1, level + 1):
                    tiles = _reduced(tiles, sizes[coarser], tile)
                    for place, pixels in tiles.items():
                        if pixels is not None:
                            emit(coarser, *place, pixels)
                return tiles[row, column]
            below = {(2 * row + r, 2 * column + c): node(level - 1, 2 * row + r, 2 * column + c) for r, c in _FOUR}
            pixels = _reduced(below, sizes[level], tile)[row, column]
            if pixels is not None:
                emit(level, row, column, pixels)
            return pixels

        last = node(top, 0, 0)
        for level in range(top + 1, len(sizes)):
            last = halve(last) if last is not None else None
            if last is not None:
                emit(level, 0, 0, last)


_FOUR = ((0, 0), (0, 1), (1, 0), (1, 1))


def _region(size: Size, tile: int, row: int, column: int) -> Region | None:
    return Region(column * tile, row * tile, tile, tile).intersection(Region(0, 0, *size))


def _reduced(
    tiles: dict[tuple[int, int], UInt8Array | None], size: Size, tile: int
) -> dict[tuple[int, int], UInt8Array | None]:
    """Tiles of the next level, each from the four below it; None if that level has none."""
    reduced: dict[tuple[int, int], UInt8Array | None] = {}
    for row, column in {(row // 2, column // 2) for row, column in tiles}:
        region = _region(size, tile, row, column)
        parts = [[tiles[2 * row + r, 2 * column + c] for c in (0, 1)] for r in (0, 1)]
        if region is None or parts[0][0] is None:
            reduced[row, column] = None
            continue
        lines = [[part for part in line if part is not None] for line in parts]
        joined = np.concatenate([np.concatenate(line, axis=1) for line in lines if line])
        reduced[row, column] = halve(joined)
    return reduced


def padded(pixels: UInt8Array, tile: int) -> UInt8Array:
    """A tile padded to full size with background at the right and bottom, as TIFF requires."""
    if pixels.shape[:2] == (tile, tile):
        return pixels
    whole = background((tile, tile))
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return whole
