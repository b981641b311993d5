"""Plan of a store's levels: their pixel sources and compression.

Levels of the slide are passed through, their compressed tiles copied byte for byte, if possible; otherwise the plan
contains the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wsi_attn.errors import MissingMppError, NotEncodedError, UsageError
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.slide import EncodedTiles, Level, Slide, SlideInfo
from wsi_attn.store.chunk_codec import ChunkCodec, jpeg_codec
from wsi_attn.store.schema import PixelsInfo
from wsi_attn.tiling.config import TileConfig

LEVEL_TOLERANCE = 0.02
"""Maximum relative difference between the pixel size of a slide level and the requested one: scanners of one model
differ by as much, and resampling by so little only blurs.
"""

SMALLEST_SIDE = 1024
"""Levels are halved until the longer side is at most this value, which a viewer shows at once."""

SMALL_ENOUGH = 4096
"""A slide pyramid whose last level is at most this size gets no further levels."""


PASSTHROUGH, COPIED, RESAMPLED, HALVED = "passthrough", "copied", "resampled", "halved"

LARGEST_CHUNK = 1024
"""Maximum side of chunks compressed by wsi-attn; smaller grid tiles are used as chunks."""


@dataclass(frozen=True)
class LevelPlan:
    """One level of a store.

    `origin` is as in `PixelsInfo`; `source` is the slide's level for `passthrough` and `copied`, the store's level for
    `halved`. `tiles` are the slide's compressed tiles if they are passed through.
    """

    level: Level
    origin: str
    source: int
    codec: ChunkCodec
    reason: str = ""
    tiles: EncodedTiles | None = None

    def info(self) -> PixelsInfo:
        """Record of the level in the store."""
        return PixelsInfo(self.origin, self.codec.name, self.reason)


def plan_levels(slide: Slide, config: TileConfig) -> tuple[LevelPlan, ...]:
    """Plan the levels of a store, finest first: those of the slide, then halved levels down to a small one.

    Raises
    ------
    MissingMppError : a resolution is requested and that of the slide is unknown.
    UsageError : the requested resolution is finer than the slide.
    NotEncodedError : `--codec passthrough`, and a level cannot be passed through.
    """
    info, codec = slide.info, jpeg_codec(config.quality) if config.codec == "jpeg" else ChunkCodec()
    side = min(config.tile_size, LARGEST_CHUNK)
    chunk = Size(side, side)
    first = 0 if config.mpp is None else _level_at(info, config.mpp)
    if first is not None:
        plans = [_of_slide(slide, index, config, codec, chunk) for index in range(first, len(info.levels))]
    else:
        downsample_x, downsample_y = downsamples(info, config.mpp)
        frame = Frame.covering(info.size0, downsample_x, downsample_y)
        reason = f"no level of the slide has {config.mpp:g} µm/px, its pixels are resampled"
        _refuse(config, info, reason)
        plans = [LevelPlan(Level(frame.size, downsample_x, downsample_y, chunk), RESAMPLED, 0, codec, reason)]
    if len(plans) > 1 and max(plans[-1].level.size) <= SMALL_ENOUGH:
        return tuple(plans)
    while max(plans[-1].level.size) > SMALLEST_SIDE:
        plans.append(_half(plans[-1].level, len(plans) - 1, codec, chunk))
    return tuple(plans)


def _of_slide(slide: Slide, index: int, config: TileConfig, codec: ChunkCodec, chunk: Size) -> LevelPlan:
    own = slide.info.levels[index]
    reason = f"--codec {config.codec} is set"
    if config.codec in ("auto", "passthrough"):
        try:
            tiles = slide.encoded_tiles(index)
        except NotEncodedError as error:
            reason = str(error)
            _refuse(config, slide.info, f"level {index}: {reason}")
        else:
            level = Level(own.size, own.downsample_x, own.downsample_y, tiles.tile_size)
            return LevelPlan(level, PASSTHROUGH, index, ChunkCodec(tiles.encoding), tiles=tiles)
    level = Level(own.size, own.downsample_x, own.downsample_y, chunk)
    return LevelPlan(level, COPIED, index, codec, reason)


def _refuse(config: TileConfig, info: SlideInfo, reason: str) -> None:
    if config.codec == "passthrough":
        raise NotEncodedError(
            f"Cannot copy the tiles of {info.path} unchanged: {reason}; --codec auto decodes them once where needed"
        )


def _level_at(info: SlideInfo, mpp: float) -> int | None:
    """Index of the slide level with that pixel size along both axes, if any."""
    downsample_x, downsample_y = downsamples(info, mpp)
    for index, level in enumerate(info.levels):
        off = max(abs(level.downsample_x / downsample_x - 1), abs(level.downsample_y / downsample_y - 1))
        if off <= LEVEL_TOLERANCE:
            return index
    return None


def downsamples(info: SlideInfo, mpp: float | None) -> tuple[float, float]:
    """Level-0 pixels per pixel at that resolution, along x and y; raises the same errors as `plan_levels`."""
    if mpp is None or info.mpp is None:
        raise MissingMppError(
            f"Cannot tile {info.path} at {mpp} µm/px: {info.mpp_note or 'its pixel size is unknown'}; "
            "set it with --slide-mpp X[,Y]"
        )
    own: Mpp = info.mpp
    if mpp < max(own) * (1 - LEVEL_TOLERANCE):
        raise UsageError(
            f"Cannot tile {info.path} at {mpp:g} µm/px: its finest pixels are {own.x:g} x {own.y:g} µm; "
            f"use --mpp {max(own):g} or more, or omit --mpp to keep the resolution of the slide"
        )
    return mpp / own.x, mpp / own.y


def _half(finer: Level, index: int, codec: ChunkCodec, chunk: Size) -> LevelPlan:
    size = Size(math.ceil(finer.size.width / 2), math.ceil(finer.size.height / 2))
    level = Level(size, finer.downsample_x * 2, finer.downsample_y * 2, chunk)
    return LevelPlan(level, HALVED, index, codec, "the slide has no level this coarse")
