"""Which levels a store has and where each one's pixels come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from wsi_attn.contract import Level, SlideInfo
from wsi_attn.errors import MissingMppError, UsageError
from wsi_attn.geometry import Frame, Mpp, Size

LEVEL_TOLERANCE = 0.02
"""Relative difference in pixel size up to which a level of the slide is the one asked for: scanners of one model
differ by as much, and resampling by so little only blurs."""

SMALLEST_SIDE = 1024
"""Halving goes on until the larger side is at most this: what a viewer shows at once."""


@dataclass(frozen=True)
class LevelPlan:
    """One level of a store.

    `copy` takes level `source` of the slide pixel by pixel, `resample` averages the slide's pixels by area,
    `half` is the 2 x 2 mean of level `source` of the store itself.
    """

    level: Level
    kind: Literal["copy", "resample", "half"]
    source: int


def plan_levels(info: SlideInfo, mpp: float | None, tile: int) -> tuple[LevelPlan, ...]:
    """The levels of a store, finest first.

    Parameters
    ----------
    mpp
        Resolution wanted of the store's level 0; None keeps the slide's.
    tile
        Side of a chunk.

    Raises
    ------
    MissingMppError : a resolution is wanted and the slide's is not known.
    UsageError : it is finer than the slide.
    """
    first = 0 if mpp is None else _level_at(info, mpp)
    if first is not None:
        plans = [_copy(info, index, tile) for index in range(first, len(info.levels))]
    else:
        downsample_x, downsample_y = _downsamples(info, mpp)
        frame = Frame.covering(info.size0, downsample_x, downsample_y)
        plans = [LevelPlan(Level(frame.size, downsample_x, downsample_y, Size(tile, tile)), "resample", 0)]
    while max(plans[-1].level.size) > SMALLEST_SIDE:
        plans.append(_half(plans[-1].level, len(plans) - 1))
    return tuple(plans)


def _level_at(info: SlideInfo, mpp: float) -> int | None:
    """Index of the slide's level of that pixel size, along both axes, if there is one."""
    downsample_x, downsample_y = _downsamples(info, mpp)
    for index, level in enumerate(info.levels):
        off = max(abs(level.downsample_x / downsample_x - 1), abs(level.downsample_y / downsample_y - 1))
        if off <= LEVEL_TOLERANCE:
            return index
    return None


def _downsamples(info: SlideInfo, mpp: float | None) -> tuple[float, float]:
    if mpp is None or info.mpp is None:
        raise MissingMppError(
            f"Cannot tile {info.path} at {mpp} µm/px: {info.mpp_note or 'its pixel size is not known'}; "
            "say it with --slide-mpp X[,Y]"
        )
    own: Mpp = info.mpp
    if mpp < max(own) * (1 - LEVEL_TOLERANCE):
        raise UsageError(
            f"Cannot tile {info.path} at {mpp:g} µm/px: its finest pixels are {own.x:g} x {own.y:g} µm; "
            f"ask for --mpp {max(own):g} or coarser, or leave --mpp out to keep the slide's own pixels"
        )
    return mpp / own.x, mpp / own.y


def _copy(info: SlideInfo, index: int, tile: int) -> LevelPlan:
    own = info.levels[index]
    return LevelPlan(Level(own.size, own.downsample_x, own.downsample_y, Size(tile, tile)), "copy", index)


def _half(finer: Level, index: int) -> LevelPlan:
    size = Size(math.ceil(finer.size.width / 2), math.ceil(finer.size.height / 2))
    return LevelPlan(Level(size, finer.downsample_x * 2, finer.downsample_y * 2, finer.tile_size), "half", index)
