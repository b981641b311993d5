"""Grids over the pixels of a store: which tiles, what each scores, written beside the grids that are there.

Scores come from the stored pixels, each chunk decoded once where tiles are chunks, so that a grid may be added years
after the slide has gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_attn.contract import BACKGROUND, Progress, UInt8Array
from wsi_attn.errors import SlideReadError, UsageError
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.scores.scores import SCORES, ScoreInfo, parse_names, score_tiles, warm_up
from wsi_attn.slides.view import read_region_at
from wsi_attn.store.create import write_grid
from wsi_attn.store.schema import GridInfo
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.levels import LEVEL_TOLERANCE, downsamples
from wsi_attn.tiling.select import origins_from0, select_tiles
from wsi_attn.tissue.mask import TissueMask

BATCH_BYTES = 12 << 20
"""Pixels that one thread scores at once."""

BLOCK = 2048
"""Side of what is read at once where tiles are no chunks, in pixels of the grid's resolution."""


@dataclass(frozen=True, eq=False)
class ScoredGrid:
    """Whether each tile could be read, bool (N,), and its scores, float32 (N,) by name, NaN where it could not."""

    readable: NDArray[np.bool_]
    scores: dict[str, NDArray[np.float32]]


def plan_grid(store: TileStore, config: TileConfig) -> tuple[GridInfo, Frame]:
    """A grid of that configuration over a store, and the frame that its tiles are cut from.

    Raises
    ------
    MissingMppError, UsageError : its resolution cannot be had from the store's pixels.
    """
    level0 = store.meta.levels[0]
    frame: Frame = level0
    if config.mpp is not None:
        factors = downsamples(store.info, config.mpp)
        off = max(abs(level0.downsample_x / factors[0] - 1), abs(level0.downsample_y / factors[1] - 1))
        if off > LEVEL_TOLERANCE:
            frame = Frame.covering(store.info.size0, *factors)
        if frame.downsample_x < level0.downsample_x * (1 - LEVEL_TOLERANCE):
            raise UsageError(
                f"{store.path} holds no pixels as fine as {config.mpp:g} µm/px; tile the slide into a store of its own"
            )
    grid = GridInfo(
        config.grid,
        config.tile_size,
        config.overlap,
        frame.downsample_x,
        frame.downsample_y,
        config.min_tissue,
        config.mpp,
        parse_names(config.scores),
    )
    return grid, frame


def add_grid(store: TileStore, mask: TissueMask, config: TileConfig, pool: Executor, progress: Progress) -> ScoredGrid:
    """Select the tiles of a grid, score them and write it into the store, where it appears whole."""
    grid, frame = plan_grid(store, config)
    selection = select_tiles(mask, frame, grid.tile_size, grid.overlap, grid.min_tissue)
    rule = (mask.measure, mask.threshold)
    scored = score_grid(store, grid, frame, selection.coords0, rule, pool, progress)
    attributes = {name: _attributes(SCORES[name]) for name in grid.scores}
    write_grid(store.path, grid, selection.coords0, scored.readable, scored.scores, attributes)
    return scored


def _attributes(score: ScoreInfo) -> dict[str, Any]:
    bounds = [bound if np.isfinite(bound) else None for bound in (score.low, score.high)]
    return {"range": bounds, "unit": score.unit, "description": score.description}


def score_grid(
    store: TileStore,
    grid: GridInfo,
    frame: Frame,
    coords0: NDArray[np.int64],
    rule: tuple[str, int],
    pool: Executor,
    progress: Progress,
) -> ScoredGrid:
    """Scores of all tiles of a grid; without any score asked for, only what the store knows to be unreadable."""
    origins = origins_from0(coords0, frame)
    readable = np.ones(len(origins), np.bool_)
    scores = {name: np.full(len(origins), np.nan, np.float32) for name in grid.scores}
    level0 = store.meta.levels[0]
    if not grid.scores:
        for index, (x, y) in enumerate(origins.tolist() if store.meta.unreadable else []):
            readable[index] = not store.is_damaged(Region(x, y, grid.tile_size, grid.tile_size), 0)
        return ScoredGrid(readable, scores)
    progress(0, 1, "compiling scores, once after installation")
    warm_up(grid.scores)  # threads that all want it first would wait for each other
    scorer = _Scorer(store, grid, frame, rule)
    aligned = frame is level0 and not grid.overlap and level0.tile_size == Size(grid.tile_size, grid.tile_size)
    batches = list(scorer.chunk_batches(origins) if aligned else scorer.block_batches(origins))
    score = scorer.score_chunks if aligned else scorer.score_block
    for done, (batch, good, found) in enumerate(pool.map(score, batches), 1):
        readable[batch] = good
        for name, values in found.items():
            scores[name][batch] = np.where(good, values, np.float32(np.nan))
        progress(done, len(batches), "scoring")
    return ScoredGrid(readable, scores)


Scored = tuple[NDArray[np.int64], NDArray[np.bool_], dict[str, NDArray[np.float32]]]
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Numbers (N,) of tiles in their grid, and their corners (N, 2) in pixels of the grid's frame."""


class _Scorer:
    """Reads tiles and scores them; called from many threads, each with pixels of its own that it uses again."""

    def __init__(self, store: TileStore, grid: GridInfo, frame: Frame, rule: tuple[str, int]) -> None:
        self.store, self.grid, self.frame, self.rule = store, grid, frame, rule
        self.tile = grid.tile_size
        self.most = max(1, BATCH_BYTES // (3 * self.tile * self.tile))
        self._own = threading.local()

    def chunk_batches(self, origins: NDArray[np.int64]) -> Iterator[Batch]:
        """Tiles shard by shard, as their bytes lie."""
        rows, columns = self.store.chunks[0].shard
        cell = origins // self.tile
        order = np.lexsort((cell[:, 0], cell[:, 1], cell[:, 0] // columns, cell[:, 1] // rows))
        for start in range(0, len(order), self.most):
            batch = order[start : start + self.most]
            yield batch, origins[batch]

    def score_chunks(self, batch: Batch) -> Scored:
        """Tiles that are chunks: their bytes are read together, and each is decoded once."""
        numbers, origins = batch
        chunks = self.store.chunks[0]
        cells = [(y // self.tile, x // self.tile) for x, y in origins.tolist()]
        tiles = self._tiles(len(cells))
        good = np.ones(len(cells), np.bool_)
        try:
            data = chunks.read(cells)
        except SlideReadError:
            data = [self._read(cell) for cell in cells]
        for index, (cell, chunk) in enumerate(zip(cells, data, strict=True)):
            if self.store.is_damaged(self._inside(*origins[index].tolist()), 0):
                good[index] = False
            elif not len(chunk):
                tiles[index] = BACKGROUND
            else:
                good[index] = self._decode(cell, chunk, tiles[index])
        return self._score(numbers, origins, tiles, good)

    def _read(self, cell: tuple[int, int]) -> bytes | memoryview:
        try:
            return self.store.chunks[0].read([cell])[0]
        except SlideReadError:
            return b"\0"  # cannot be decoded, and is found out then

    def _decode(self, cell: tuple[int, int], data: bytes | memoryview, out: UInt8Array) -> bool:
        try:
            pixels = self.store.chunks[0].decode(cell, data, out)
        except SlideReadError:
            return False
        if pixels is not out:
            out[...] = pixels
        return True

    def block_batches(self, origins: NDArray[np.int64]) -> Iterator[Batch]:
        """Tiles by the block that their corner lies in."""
        side = max(BLOCK, self.tile)
        block = origins // side
        order = np.lexsort((block[:, 0], block[:, 1]))
        changes = np.flatnonzero(np.any(np.diff(block[order], axis=0), axis=1)) + 1
        for batch in np.split(order, changes) if len(order) else []:
            yield batch, origins[batch]

    def score_block(self, batch: Batch) -> Scored:
        """Tiles near each other, cut from one region that is read once."""
        numbers, origins = batch
        tiles = np.full((len(numbers), self.tile, self.tile, 3), BACKGROUND, np.uint8)
        good = np.ones(len(numbers), np.bool_)
        x, y = origins.min(axis=0).tolist()
        x1, y1 = (origins.max(axis=0) + self.tile).tolist()
        try:
            pixels = self._region(Region(x, y, x1 - x, y1 - y))
        except SlideReadError:
            for index, (left, top) in enumerate(origins.tolist()):
                try:
                    tiles[index] = self._region(Region(left, top, self.tile, self.tile))
                except SlideReadError:
                    good[index] = False
        else:
            for index, (left, top) in enumerate((origins - (x, y)).tolist()):
                tiles[index] = pixels[top : top + self.tile, left : left + self.tile]
        return self._score(numbers, origins, tiles, good)

    def _region(self, region: Region) -> UInt8Array:
        """Pixels of a region of the frame, background outside of it."""
        factors = self.frame.downsample_x, self.frame.downsample_y
        corner0 = region.x * factors[0], region.y * factors[1]
        return read_region_at(self.store, corner0, *factors, (region.width, region.height))

    def _score(
        self, numbers: NDArray[np.int64], origins: NDArray[np.int64], tiles: UInt8Array, good: NDArray[np.bool_]
    ) -> Scored:
        extents = np.minimum(self.tile, np.array(self.frame.size) - origins)
        return numbers, good, score_tiles(tiles, extents, self.grid.scores, self.rule, parallel=False)

    def _inside(self, x: int, y: int) -> Region:
        size = self.frame.size
        return Region(x, y, min(self.tile, size.width - x), min(self.tile, size.height - y))

    def _tiles(self, count: int) -> UInt8Array:
        if not hasattr(self._own, "tiles"):
            self._own.tiles = np.empty((self.most, self.tile, self.tile, 3), np.uint8)
        return np.asarray(self._own.tiles[:count])
