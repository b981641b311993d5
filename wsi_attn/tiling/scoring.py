"""Scoring the tiles of a grid: each chunk is decoded once if tiles are chunks; otherwise blocks of pixels are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError, TileDecodeError
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.scores.scores import score_tiles
from wsi_attn.slide import BACKGROUND, UInt8Array
from wsi_attn.slides.view import read_region_at
from wsi_attn.store.chunk_codec import ChunkCodec
from wsi_attn.store.schema import GridInfo
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.pixels import ReadTiles, read_each

BATCH_BYTES = 12 << 20
"""Bytes of pixels that one thread scores at once."""

BLOCK = 2048
"""Side of a block read at once if tiles are not chunks, in pixels at the grid's resolution."""


Scored = tuple[NDArray[np.int64], NDArray[np.bool_], dict[str, NDArray[np.float32]]]
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Numbers (N,) of tiles in their grid, and their corners (N, 2) in pixels of the grid's frame."""


@dataclass(frozen=True)
class ChunkSource:
    """Compressed chunks of the finest level: those of a store, or the slide's tiles that will become them."""

    read: ReadTiles
    codec: ChunkCodec


@dataclass(eq=False)
class Scorer:
    """Read and score tiles; called from many threads, each of which reuses its own buffer.

    Attributes
    ----------
    rule
        The tissue rule, as in `score_tiles`.
    chunks
        Source of the tiles if they are chunks.
    """

    store: TileStore
    grid: GridInfo
    frame: Frame
    rule: tuple[str, int]
    chunks: ChunkSource

    def __post_init__(self) -> None:
        self.tile = self.grid.tile_size
        self.most = max(1, BATCH_BYTES // (3 * self.tile * self.tile))
        self._own = threading.local()

    def chunk_batches(self, origins: NDArray[np.int64]) -> Iterator[Batch]:
        """Tiles by shard, in order of their bytes."""
        rows, columns = self.store.chunks[0].shard
        cell = origins // self.tile
        order = np.lexsort((cell[:, 0], cell[:, 1], cell[:, 0] // columns, cell[:, 1] // rows))
        for start in range(0, len(order), self.most):
            batch = order[start : start + self.most]
            yield batch, origins[batch]

    def score_chunks(self, batch: Batch) -> Scored:
        """Score tiles that are chunks: their bytes are read together, and each is decoded once."""
        numbers, origins = batch
        cells = [(y // self.tile, x // self.tile) for x, y in origins.tolist()]
        tiles = self._tiles(len(cells))
        good = np.ones(len(cells), np.bool_)
        for index, chunk in enumerate(read_each(self.chunks.read, cells)):
            if len(chunk):
                good[index] = self._decode(chunk, tiles[index])
            else:
                tiles[index] = BACKGROUND
        return self._score(numbers, origins, tiles, good)

    def _decode(self, data: bytes | memoryview, out: UInt8Array) -> bool:
        try:
            pixels = self.chunks.codec.decode(data, Size(self.tile, self.tile), out)
        except TileDecodeError:
            return False
        if pixels is not out:
            out[...] = pixels
        return True

    def block_batches(self, origins: NDArray[np.int64]) -> Iterator[Batch]:
        """Tiles by the block that contains their corner."""
        side = max(BLOCK, self.tile)
        block = origins // side
        order = np.lexsort((block[:, 0], block[:, 1]))
        changes = np.flatnonzero(np.any(np.diff(block[order], axis=0), axis=1)) + 1
        for batch in np.split(order, changes) if len(order) else []:
            yield batch, origins[batch]

    def score_block(self, batch: Batch) -> Scored:
        """Score neighbouring tiles, cut from one region that is read once."""
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
        """Pixels of a region of the frame, with background outside."""
        factors = self.frame.downsample_x, self.frame.downsample_y
        corner0 = region.x * factors[0], region.y * factors[1]
        return read_region_at(self.store, corner0, *factors, (region.width, region.height))

    def _score(
        self, numbers: NDArray[np.int64], origins: NDArray[np.int64], tiles: UInt8Array, good: NDArray[np.bool_]
    ) -> Scored:
        extents = np.minimum(self.tile, np.array(self.frame.size) - origins)
        return numbers, good, score_tiles(tiles, extents, self.grid.scores, self.rule, parallel=False)

    def _tiles(self, count: int) -> UInt8Array:
        if not hasattr(self._own, "tiles"):
            self._own.tiles = np.empty((self.most, self.tile, self.tile, 3), np.uint8)
        return np.asarray(self._own.tiles[:count])
