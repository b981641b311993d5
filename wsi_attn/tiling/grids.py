"""Grids of a store: select tiles, score them, and write them beside existing grids.

Scores are computed from the stored pixels, decoding each chunk once if tiles coincide with chunks, so a grid can be
added long after the slide is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UsageError
from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.json_types import JsonObject
from wsi_attn.scores.fused import FusedScore
from wsi_attn.scores.score import Score
from wsi_attn.scores.scores import SCORES, parse_names, warm_up
from wsi_attn.slide import Progress
from wsi_attn.store.create import write_grid
from wsi_attn.store.schema import FileInfo, GridInfo
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.levels import LEVEL_TOLERANCE, LevelPlan, downsamples
from wsi_attn.tiling.scoring import ChunkSource, Scorer
from wsi_attn.tiling.select import origins_from0, select_tiles
from wsi_attn.tissue.mask import TissueMask


@dataclass(frozen=True, eq=False)
class ScoredGrid:
    """The tiles of a grid.

    Attributes
    ----------
    readable
        bool (N,), False for tiles with unreadable pixels.
    scores
        float32 (N,) by name, NaN for unreadable tiles.
    files
        Size and checksum of each file by path in the store, once the grid is written.
    """

    readable: NDArray[np.bool_]
    scores: dict[str, NDArray[np.float32]]
    files: Mapping[str, FileInfo] = field(default_factory=dict)


def plan_grid(store: TileStore, config: TileConfig) -> tuple[GridInfo, Frame]:
    """Return the grid of a configuration over a store, and the frame of its tiles.

    Raises
    ------
    MissingMppError, UsageError : the store's pixels cannot provide the resolution.
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
                f"{store.path} contains no pixels as fine as {config.mpp:g} µm/px; tile the slide into another store"
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


def add_grid(
    store: TileStore,
    mask: TissueMask,
    config: TileConfig,
    pool: Executor,
    progress: Progress,
    scored: ScoredGrid | None = None,
) -> ScoredGrid:
    """Select the tiles of a grid, score them if needed, and write the grid atomically."""
    grid, frame = plan_grid(store, config)
    coords0 = select_tiles(mask, frame, grid.tile_size, grid.overlap, grid.min_tissue)
    scored = scored or score_grid(store, mask, config, pool, progress)
    if not grid.scores or _are_chunks(store, grid, frame):  # otherwise pixels were read, and damage was detected there
        scored = _without_damaged(scored, store, grid, origins_from0(coords0, frame), frame)
    attributes = {name: _attributes(SCORES.get(name)) for name in grid.scores}
    written = write_grid(store.path, grid, coords0, scored.readable, scored.scores, attributes)
    return replace(scored, files=written)


def _attributes(score: Score | FusedScore) -> JsonObject:
    bounds = [bound if np.isfinite(bound) else None for bound in (score.low, score.high)]
    return {"range": bounds, "unit": score.unit, "description": score.description}


def chunks_ahead(store: TileStore, config: TileConfig, plan: LevelPlan) -> ChunkSource | None:
    """The slide's own tiles, if the grid can be scored from them before the store contains its pixels."""
    grid, frame = plan_grid(store, config)
    if plan.tiles is None or not grid.scores or not _are_chunks(store, grid, frame):
        return None
    return ChunkSource(plan.tiles.read, plan.codec)


def score_grid(
    store: TileStore,
    mask: TissueMask,
    config: TileConfig,
    pool: Executor,
    progress: Progress,
    chunks: ChunkSource | None = None,
) -> ScoredGrid:
    """Score all tiles of a grid from the store's pixels or from `chunks`, and report which tiles are readable."""
    grid, frame = plan_grid(store, config)
    origins = origins_from0(select_tiles(mask, frame, grid.tile_size, grid.overlap, grid.min_tissue), frame)
    readable = np.ones(len(origins), np.bool_)
    scores = {name: np.full(len(origins), np.nan, np.float32) for name in grid.scores}
    if not grid.scores:
        return ScoredGrid(readable, scores)
    progress(0, 1, "compiling scores, once after installation")
    warm_up(grid.scores)  # threads that need it first would wait for each other
    own = store.chunks[0]
    scorer = Scorer(store, grid, frame, (mask.measure, mask.threshold), chunks or ChunkSource(own.read, own.codec))
    aligned = _are_chunks(store, grid, frame)
    batches = list(scorer.chunk_batches(origins) if aligned else scorer.block_batches(origins))
    score = scorer.score_chunks if aligned else scorer.score_block
    for done, (batch, good, found) in enumerate(pool.map(score, batches), 1):
        readable[batch] = good
        for name, values in found.items():
            scores[name][batch] = np.where(good, values, np.float32(np.nan))
        progress(done, len(batches), "scoring")
    return ScoredGrid(readable, scores)


def _are_chunks(store: TileStore, grid: GridInfo, frame: Frame) -> bool:
    """Whether the tiles of a grid coincide with the chunks of the finest level."""
    level0 = store.meta.levels[0]
    return frame is level0 and not grid.overlap and level0.tile_size == Size(grid.tile_size, grid.tile_size)


def _without_damaged(
    scored: ScoredGrid, store: TileStore, grid: GridInfo, origins: NDArray[np.int64], frame: Frame
) -> ScoredGrid:
    """Exclude tiles that overlap regions recorded as damaged."""
    if not store.meta.unreadable:
        return scored
    level0, tile = store.meta.levels[0], grid.tile_size
    regions = (level0.region_from0(frame.region0_from(x, y, tile, tile)) for x, y in origins.tolist())
    inside = (region.intersection(Region(0, 0, *level0.size)) for region in regions)
    lost = np.array([region is None or store.is_damaged(region, 0) for region in inside], np.bool_)
    scores = {name: np.where(lost, np.float32(np.nan), values) for name, values in scored.scores.items()}
    return ScoredGrid(scored.readable & ~lost, scores)
