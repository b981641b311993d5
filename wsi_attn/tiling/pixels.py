"""Encoded chunks of a region of a level: copied unchanged, or decoded once and recompressed.

Runs in the threads of the writer's pool; reading, decoding and compressing release the interpreter lock. If a region is
unreadable it is read again chunk by chunk, which confines damage to its chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Region
from wsi_attn.slide import BACKGROUND, EncodedTiles, Level, Slide, UInt8Array
from wsi_attn.slides.resample import halve
from wsi_attn.slides.view import read_region_at
from wsi_attn.store.chunk_codec import ChunkCodec
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.levels import COPIED, HALVED, RESAMPLED, LevelPlan

BLOCK = 1024
"""Side of a compressed block in pixels: 3 MB per thread at the slide's resolution, 12 MB if halved; few slide tiles are
decoded twice.
"""

UNREADABLE = b"\0"
"""Bytes that are neither a tile nor, as none at all would be, background."""

ReadTiles = Callable[[Sequence[tuple[int, int]]], Sequence[bytes | memoryview]]
"""Compressed tiles given as (row, column), empty for background; raises `SlideReadError` if any is unreadable."""

ReadRegion = Callable[[Region], UInt8Array]
"""Pixels of a region inside the level, in its pixels; raises `SlideReadError` if they cannot be decoded."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """Some chunks of a level.

    `cells` int64 (N, 2) are rows and columns in the level, increasing; `data` the bytes of each; `bad` int64 (M, 2) the
    unreadable ones. Chunks in neither read as background.
    """

    cells: NDArray[np.int64]
    data: Sequence[bytes | memoryview]
    bad: NDArray[np.int64]


def copy_chunks(tiles: EncodedTiles, wanted: NDArray[np.bool_], block: Region) -> Chunks:
    """Copy the slide's compressed tiles of a block, in chunks of the level; tiles with damaged structure are bad."""
    window = wanted[block.y : block.y1, block.x : block.x1] & (
        tiles.lengths[block.y : block.y1, block.x : block.x1] > 0
    )
    cells = np.argwhere(window) + np.array([block.y, block.x])
    data = read_each(tiles.read, [(row, column) for row, column in cells.tolist()])
    good = tiles.encoding.are_whole(data, tiles.tile_size)
    if good.all():
        return Chunks(cells, data, _no_cells())
    return Chunks(cells[good], [chunk for chunk, whole in zip(data, good, strict=True) if whole], cells[~good])


def read_each(read: ReadTiles, cells: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
    """Read compressed tiles together, or one by one if one of them is unreadable; that one is `UNREADABLE`."""
    try:
        return read(cells)
    except SlideReadError:
        return [UNREADABLE] if len(cells) == 1 else [data for cell in cells for data in read_each(read, [cell])]


def encode_chunks(
    level: Level, codec: ChunkCodec, read: ReadRegion, wanted: NDArray[np.bool_], block: Region
) -> Chunks:
    """Read and compress the selected chunks of a block, in chunks of the level."""
    window = wanted[block.y : block.y1, block.x : block.x1]
    cells = np.argwhere(window) + np.array([block.y, block.x])
    if not len(cells):
        return Chunks(cells, [], _no_cells())
    (top, left), (bottom, right) = cells.min(axis=0).tolist(), cells.max(axis=0).tolist()
    x, y = left * level.tile_size.width, top * level.tile_size.height
    x1 = min((right + 1) * level.tile_size.width, level.size.width)
    y1 = min((bottom + 1) * level.tile_size.height, level.size.height)
    try:
        pixels = read(Region(x, y, x1 - x, y1 - y))
    except SlideReadError:
        parts = [_encode_one(level, codec, read, cell) for cell in cells.tolist()]
    else:
        parts = [_encode(codec, pixels, _chunk_region(level, *cell), (x, y), level) for cell in cells.tolist()]
    bad = np.fromiter((part is None for part in parts), np.bool_, len(parts))
    present = np.fromiter((bool(part) for part in parts), np.bool_, len(parts))  # b"" is entirely background
    return Chunks(cells[present], [part for part in parts if part], cells[bad])


def _encode(codec: ChunkCodec, pixels: UInt8Array, region: Region, corner: tuple[int, int], level: Level) -> bytes:
    x, y = region.x - corner[0], region.y - corner[1]
    part = pixels[y : y + region.height, x : x + region.width]
    width, height = level.tile_size
    if part.shape[:2] != (height, width):
        tile = np.full((height, width, 3), BACKGROUND, np.uint8)
        tile[: region.height, : region.width] = part
        part = tile
    return codec.encode(np.ascontiguousarray(part)) or b""


def _encode_one(level: Level, codec: ChunkCodec, read: ReadRegion, cell: list[int]) -> bytes | None:
    region = _chunk_region(level, *cell)
    try:
        return _encode(codec, read(region), region, (region.x, region.y), level)
    except SlideReadError:
        return None


def _chunk_region(level: Level, row: int, column: int) -> Region:
    x, y = column * level.tile_size.width, row * level.tile_size.height
    width, height = min(level.tile_size.width, level.size.width - x), min(level.tile_size.height, level.size.height - y)
    return Region(x, y, width, height)


def _no_cells() -> NDArray[np.int64]:
    return np.zeros((0, 2), np.int64)


def blocks_of(level: Level, shard: Region) -> Iterator[Region]:
    """Split a shard, in chunks of its level, into blocks with sides of about `BLOCK` pixels."""
    across, down = max(1, BLOCK // level.tile_size.width), max(1, BLOCK // level.tile_size.height)
    return shard.split(across, down)


def reader_of(plan: LevelPlan, slide: Slide, store: TileStore, damage: list[Region]) -> ReadRegion:
    """Return the reader of a level's pixels; `damage` are its regions, in its pixels, known to be unreadable."""
    level = plan.level
    factors = level.downsample_x, level.downsample_y

    def copied(region: Region) -> UInt8Array:
        corner0 = round(region.x * factors[0]), round(region.y * factors[1])
        return slide.read_region(corner0, plan.source, (region.width, region.height))

    def resampled(region: Region) -> UInt8Array:
        corner0 = region.x * factors[0], region.y * factors[1]
        return read_region_at(slide, corner0, *factors, (region.width, region.height))

    def halved(region: Region) -> UInt8Array:
        finer = store.meta.levels[plan.source].size
        inside = Region(0, 0, *finer).intersection(Region(*(2 * value for value in region)))
        if inside is None:
            raise SlideReadError(f"{region} lies outside its level")
        pixels = halve(store.read_level(plan.source, inside))
        for lost in damage:
            if part := lost.intersection(region):
                pixels[part.within(region)] = BACKGROUND
        return pixels

    return {COPIED: copied, RESAMPLED: resampled, HALVED: halved}[plan.origin]


def halved_regions(regions: list[Region]) -> list[Region]:
    """Regions of the next coarser level that overlap any of these."""
    return [
        Region(region.x // 2, region.y // 2, -(-region.x1 // 2) - region.x // 2, -(-region.y1 // 2) - region.y // 2)
        for region in regions
    ]
