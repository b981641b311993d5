"""Reading blocks of a level and turning them into encoded chunks, with the tissue score of each on the way.

Runs in the threads of the writer's pool: what it calls releases the interpreter lock while it decodes, scores
and compresses. A block that cannot be read is read again chunk by chunk, so that damage stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.contract import BACKGROUND, Level, Slide, UInt8Array
from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Region
from wsi_attn.scores.scores import tissue_scores
from wsi_attn.slides.view import read_region_at
from wsi_attn.store import sharding
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.levels import LevelPlan

BLOCK = 2048
"""Pixels along a side of what is read at once: 12 MB a thread, few of the slide's own tiles decoded twice."""

ReadRegion = Callable[[Region], UInt8Array]
"""Pixels of a region that lies inside the level, in its pixels; `SlideReadError` where they cannot be decoded."""


@dataclass(frozen=True, eq=False)
class LevelTask:
    """What the threads need to know of the level being written.

    `wanted` is bool (rows, columns) of chunks; the others stay absent. `rule` is the measure and threshold of
    tissue, or None where no score is computed.
    """

    level: Level
    read: ReadRegion
    wanted: NDArray[np.bool_]
    rule: tuple[str, int] | None


@dataclass(frozen=True)
class EncodedChunk:
    """One chunk: compressed bytes, None where it reads as background; NaN scores where there is none."""

    row: int
    column: int
    data: bytes | None
    readable: bool = True
    tissue: float = float("nan")


def encode_block(task: LevelTask, block: Region) -> list[EncodedChunk]:
    """Read, score and compress the chunks of a block, given in chunks of the level."""
    cells = [(row, column) for row in range(block.y, block.y1) for column in range(block.x, block.x1)]
    wanted = [cell for cell in cells if task.wanted[cell]]
    absent = [EncodedChunk(*cell, data=None, tissue=0.0) for cell in cells if not task.wanted[cell]]
    if not wanted:
        return absent
    tile = task.level.tile_size.width
    tiles = np.full((len(wanted), tile, tile, 3), BACKGROUND, np.uint8)
    regions = [_chunk_region(task.level, row, column) for row, column in wanted]
    readable = _read_into(task, regions, tiles)
    scores = np.full(len(wanted), np.nan, np.float32)
    if task.rule is not None:
        extents = np.array([(region.width, region.height) for region in regions])
        scores = tissue_scores(tiles, extents, *task.rule, parallel=False)
    found = [
        EncodedChunk(*cell, sharding.encode_chunk(pixels), True, float(score))
        if good
        else EncodedChunk(*cell, None, readable=False)
        for cell, pixels, good, score in zip(wanted, tiles, readable, scores, strict=True)
    ]
    return absent + found


def _read_into(task: LevelTask, regions: list[Region], tiles: UInt8Array) -> list[bool]:
    """Fill each tile's top left with its region, and say which could be read."""
    x, y = min(region.x for region in regions), min(region.y for region in regions)
    bounding = Region(x, y, max(region.x1 for region in regions) - x, max(region.y1 for region in regions) - y)
    try:
        pixels = task.read(bounding)
    except SlideReadError:
        return [_read_one(task, region, tile) for region, tile in zip(regions, tiles, strict=True)]
    for region, tile in zip(regions, tiles, strict=True):
        part = pixels[region.y - y : region.y1 - y, region.x - x : region.x1 - x]
        tile[: region.height, : region.width] = part
    return [True] * len(regions)


def _read_one(task: LevelTask, region: Region, tile: UInt8Array) -> bool:
    try:
        tile[: region.height, : region.width] = task.read(region)
    except SlideReadError:
        return False
    return True


def _chunk_region(level: Level, row: int, column: int) -> Region:
    tile = level.tile_size.width
    x, y = column * tile, row * tile
    return Region(x, y, min(tile, level.size.width - x), min(tile, level.size.height - y))


def blocks_of(shard: Region, tile: int) -> Iterator[Region]:
    """Cut a shard, given in chunks of its level, into blocks of about `BLOCK` pixels a side."""
    side = max(1, BLOCK // tile)
    for y in range(shard.y, shard.y1, side):
        for x in range(shard.x, shard.x1, side):
            yield Region(x, y, min(side, shard.x1 - x), min(side, shard.y1 - y))


def reader_of(plan: LevelPlan, slide: Slide, store: TileStore, damage: list[Region]) -> ReadRegion:
    """How pixels of a level are read; `damage` are the regions of it, in its pixels, that are known to be lost."""
    level = plan.level
    factors = level.downsample_x, level.downsample_y

    def copy(region: Region) -> UInt8Array:
        corner0 = round(region.x * factors[0]), round(region.y * factors[1])
        return slide.read_region(corner0, plan.source, (region.width, region.height))

    def resample(region: Region) -> UInt8Array:
        corner0 = region.x * factors[0], region.y * factors[1]
        return read_region_at(slide, corner0, *factors, (region.width, region.height))

    def half(region: Region) -> UInt8Array:
        finer = store.meta.levels[plan.source].size
        inside = Region(0, 0, *finer).intersection(Region(*(2 * value for value in region)))
        if inside is None:
            raise SlideReadError(f"{region} lies outside its level")
        pixels = halve(store.read_level(plan.source, inside))
        for lost in damage:
            if part := lost.intersection(region):
                pixels[part.y - region.y : part.y1 - region.y, part.x - region.x : part.x1 - region.x] = BACKGROUND
        return pixels

    return {"copy": copy, "resample": resample, "half": half}[plan.kind]


def halve(pixels: UInt8Array) -> UInt8Array:
    """Mean of each 2 x 2 square, rounded half up; an odd last row or column is averaged with itself."""
    rows, columns = pixels.shape[:2]
    even = cv2.copyMakeBorder(pixels, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)
    size = (even.shape[1] // 2, even.shape[0] // 2)
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)


def halved(regions: list[Region]) -> list[Region]:
    """Regions of the next coarser level that any of these reaches into."""
    return [
        Region(region.x // 2, region.y // 2, -(-region.x1 // 2) - region.x // 2, -(-region.y1 // 2) - region.y // 2)
        for region in regions
    ]
