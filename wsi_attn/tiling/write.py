"""`tile_slide`: one slide into one store, shard by shard, resumable, with memory flat in the slide's size.

Shards are written whole and in order, two at most are in the making, and only their compressed chunks are held.
A journal says which are done; whatever moment a run is killed at, the next one goes on from there and ends with
the same bytes. Nothing written depends on the clock, on the machine or on the number of threads.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn import files
from wsi_attn.contract import Progress, Slide, no_progress
from wsi_attn.geometry import Mpp, Region
from wsi_attn.scores.scores import tissue_scores
from wsi_attn.store import sharding
from wsi_attn.store.create import write_vector
from wsi_attn.store.journal import Journal
from wsi_attn.store.lock import store_lock
from wsi_attn.store.schema import ATTRIBUTE, COMPLETE, GROUP_FILE, Unreadable, read_meta
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.config import TileConfig, TileSummary
from wsi_attn.tiling.levels import LevelPlan, plan_levels
from wsi_attn.tiling.pixels import EncodedChunk, LevelTask, blocks_of, encode_block, halved, reader_of
from wsi_attn.tiling.prepare import find_existing, mask_from, prepare, remove_leftovers
from wsi_attn.tiling.select import (
    chunk_counts,
    corner_chunks,
    grid_origins,
    origins_from0,
    touched_chunks,
    wanted_chunks,
)

__all__ = ["TileConfig", "TileSummary", "tile_slide"]

SCORE_BATCH = 64
"""Overlapping tiles read back and scored at once: 12 MB of tiles of 256."""


def tile_slide(
    slide: Slide, output: Path, config: TileConfig, overwrite: bool = False, progress: Progress = no_progress
) -> TileSummary:
    """Write the store of a slide.

    A complete store of the same slide and parameters is left alone, an unfinished one is resumed. Regions that
    cannot be read are masked, recorded and counted, and are not an error; nor is a slide without tissue.

    Parameters
    ----------
    output
        The `.zarr` folder; its parents are created.
    overwrite
        Replace whatever lies there.

    Raises
    ------
    StoreExistsError : something else lies at `output`.
    StoreLockedError : another process is writing it.
    MissingMppError, UsageError : `config.mpp` cannot be had from this slide.
    """
    started = time.perf_counter()
    with store_lock(output):
        found = find_existing(slide, output, config, overwrite=overwrite)
        remove_leftovers(output)
        if found == "complete":
            Journal(output).remove()  # its last run may have died between its last two steps
        else:
            if found == "nothing":
                prepare(slide, output, config, progress)
            with _pool(config.threads()) as pool:
                _Writer(slide, output, config, pool, progress).run()
    state = {"complete": "skipped", "unfinished": "resumed", "nothing": "written"}[found]
    return _summary(slide, output, config, state, started)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that drop what is waiting when the block ends by an error or an interruption."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tile")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _LevelState:
    """What is known of a level: chunks that could not be read, and tissue scores where they are computed."""

    bad: NDArray[np.bool_]
    tissue: NDArray[np.float32]
    done: set[tuple[int, int]] = field(default_factory=set)


class _Writer:
    """One run over one store; owns nothing that outlives it."""

    def __init__(
        self, slide: Slide, path: Path, config: TileConfig, pool: ThreadPoolExecutor, progress: Progress
    ) -> None:
        self.slide, self.path, self.config, self.pool, self.progress = slide, path, config, pool, progress
        self.tile = config.tile_size
        self.plans = plan_levels(slide.info, config.mpp, config.tile_size)
        self.journal = Journal(path)
        self.store = TileStore(path, read_meta(path))
        self.mask = mask_from(self.store)
        self.origins = origins_from0(self.store.coords(config.grid), self.plans[0].level)
        self.states = [self._new_state(plan) for plan in self.plans]
        self.damage: list[list[Region]] = []
        self.steps = 0
        self.total = sum(len(list(blocks_of(shard, self.tile))) for plan in self.plans for shard in _shards(plan))

    def _new_state(self, plan: LevelPlan) -> _LevelState:
        counts = chunk_counts(plan.level, self.tile)
        return _LevelState(np.zeros(counts, np.bool_), np.full(counts, np.nan, np.float32))

    def run(self) -> None:
        """Write what the journal does not say is done, then the rest of the store."""
        for entry in self.journal.read():
            self._replay(entry)
        rule = (self.mask.measure, self.mask.threshold)
        # Compiled here, once: threads that all want it first would wait for each other.
        tissue_scores(np.zeros((1, 1, 1, 3), np.uint8), np.ones((1, 2), np.int64), *rule, parallel=False)
        for index, plan in enumerate(self.plans):
            self._write_level(index, plan, rule)
        self._finish(rule)

    def _replay(self, entry: dict[str, object]) -> None:
        record = _ShardRecord(**entry)  # type: ignore[arg-type]
        state = self.states[record.level]
        window = _window(self.plans[record.level], record.row, record.column)
        state.done.add((record.row, record.column))
        for row, column in record.unreadable:
            state.bad[row, column] = True
        if record.tissue is not None:
            shape = state.tissue[window].shape
            state.tissue[window] = np.frombuffer(base64.b64decode(record.tissue), "<f4").reshape(shape)

    def _write_level(self, index: int, plan: LevelPlan, rule: tuple[str, int]) -> None:
        known = halved(self.damage[plan.source]) if plan.kind == "half" else []
        scored = index == 0 and self.config.overlap == 0
        read = reader_of(plan, self.slide, self.store, known)
        task = LevelTask(plan.level, read, self._wanted(index, plan), rule if scored else None)
        waiting: deque[tuple[Region, list[Future[list[EncodedChunk]]]]] = deque()
        for shard in _shards(plan):
            blocks = list(blocks_of(shard, self.tile))
            if _place(plan, shard) in self.states[index].done:
                self._advance(len(blocks))
                continue
            waiting.append((shard, [self.pool.submit(encode_block, task, block) for block in blocks]))
            if len(waiting) > 1:  # the next shard is being read while this one is written
                self._write_shard(index, plan, *waiting.popleft(), scored=scored)
        while waiting:
            self._write_shard(index, plan, *waiting.popleft(), scored=scored)
        self.damage.append(known + _rectangles(self.states[index].bad, plan))

    def _wanted(self, index: int, plan: LevelPlan) -> NDArray[np.bool_]:
        if self.config.background == "keep":
            return np.ones(chunk_counts(plan.level, self.tile), np.bool_)
        wanted = wanted_chunks(self.mask, plan.level, self.tile)
        return wanted | touched_chunks(self.origins, plan.level, self.tile) if index == 0 else wanted

    def _write_shard(
        self, index: int, plan: LevelPlan, shard: Region, futures: list[Future[list[EncodedChunk]]], *, scored: bool
    ) -> None:
        state, place = self.states[index], _place(plan, shard)
        rows, columns = sharding.shard_chunks(plan.level.size, self.tile)
        data: list[bytes | None] = [None] * (rows * columns)
        for future in futures:
            for chunk in future.result():
                data[(chunk.row - shard.y) * columns + chunk.column - shard.x] = chunk.data
                state.bad[chunk.row, chunk.column] = not chunk.readable
                state.tissue[chunk.row, chunk.column] = chunk.tissue
            self._advance(1)
        content = sharding.encode_shard(data)
        if content is not None:
            files.write_bytes(sharding.shard_path(self.path, index, *place), content)
        window = _window(plan, *place)
        unreadable = np.add(np.argwhere(state.bad[window]), (shard.y, shard.x)).tolist()
        scores = base64.b64encode(state.tissue[window].astype("<f4").tobytes()).decode() if scored else None
        self.journal.append(dataclasses.asdict(_ShardRecord(index, *place, unreadable, scores)))

    def _advance(self, steps: int) -> None:
        self.steps += steps
        self.progress(self.steps, self.total, "tiling")

    def _finish(self, rule: tuple[str, int]) -> None:
        level0, state = self.plans[0].level, self.states[0]
        readable = np.ones(len(self.origins), np.bool_)
        for rows, columns in corner_chunks(self.origins, level0, self.tile):
            readable &= ~state.bad[rows, columns]
        if self.config.overlap == 0:
            scores = state.tissue[self.origins[:, 1] // self.tile, self.origins[:, 0] // self.tile]
        else:
            scores = self._scores_read_back(rule)
        scores = np.where(readable, scores, np.float32(np.nan))
        grid = self.path / "tiles" / self.config.grid
        write_vector(grid / "scores" / "tissue", scores)
        write_vector(grid / "readable", readable)
        self._complete()
        self.journal.remove()

    def _complete(self) -> None:
        unreadable = [
            Unreadable(index, *plan.level.region0_from(*region))
            for index, plan in enumerate(self.plans)
            for region in self.damage[index]
        ]
        shards = {
            file.relative_to(self.path).as_posix(): file.stat().st_size
            for index in range(len(self.plans))
            for file in sorted((self.path / str(index) / "c").rglob("*"))
            if file.is_file()
        }
        meta = dataclasses.replace(read_meta(self.path), state=COMPLETE, unreadable=tuple(unreadable), files=shards)
        group = json.loads((self.path / GROUP_FILE).read_text(encoding="utf-8"))
        group["attributes"][ATTRIBUTE] = meta.to_json()
        files.write_json(self.path / GROUP_FILE, group)

    def _scores_read_back(self, rule: tuple[str, int]) -> NDArray[np.float32]:
        """Scores of tiles that are no chunks, from the pixels just stored."""
        starts = range(0, len(self.origins), SCORE_BATCH)
        batches = [self.origins[start : start + SCORE_BATCH] for start in starts]
        found = list(self.pool.map(self._score_batch, batches, itertools.repeat(rule)))
        return np.concatenate([np.zeros(0, np.float32), *found])

    def _score_batch(self, origins: NDArray[np.int64], rule: tuple[str, int]) -> NDArray[np.float32]:
        size = self.plans[0].level.size
        tiles = np.zeros((len(origins), self.tile, self.tile, 3), np.uint8)
        extents = np.minimum(self.tile, np.array(size) - origins)
        for tile, (x, y), (width, height) in zip(tiles, origins.tolist(), extents.tolist(), strict=True):
            tile[:height, :width] = self.store.read_level(0, Region(x, y, width, height))
        return tissue_scores(tiles, extents, *rule, parallel=False)


@dataclass(frozen=True)
class _ShardRecord:
    """One journal entry: a shard in units of shards, its unreadable chunks (row, column), its scores in base64."""

    level: int
    row: int
    column: int
    unreadable: list[tuple[int, int]]
    tissue: str | None


def _shards(plan: LevelPlan) -> Iterator[Region]:
    """Shards of a level in write order, each as a region of chunks."""
    tile = plan.level.tile_size.width
    count_y, count_x = chunk_counts(plan.level, tile)
    rows, columns = sharding.shard_chunks(plan.level.size, tile)
    for y in range(0, count_y, rows):
        for x in range(0, count_x, columns):
            yield Region(x, y, min(columns, count_x - x), min(rows, count_y - y))


def _place(plan: LevelPlan, shard: Region) -> tuple[int, int]:
    rows, columns = sharding.shard_chunks(plan.level.size, plan.level.tile_size.width)
    return shard.y // rows, shard.x // columns


def _window(plan: LevelPlan, row: int, column: int) -> tuple[slice, slice]:
    rows, columns = sharding.shard_chunks(plan.level.size, plan.level.tile_size.width)
    return slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns)


def _rectangles(bad: NDArray[np.bool_], plan: LevelPlan) -> list[Region]:
    """Unreadable chunks as rectangles in pixels of the level, neighbours in a row joined."""
    tile, size = plan.level.tile_size.width, plan.level.size
    found = []
    for row in np.flatnonzero(bad.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(bad[row].astype(np.int8), prepend=0, append=0)).tolist()
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            x, y = first * tile, row * tile
            found.append(Region(x, y, min(last * tile, size.width) - x, min(tile, size.height - y)))
    return found


def _summary(slide: Slide, path: Path, config: TileConfig, state: str, started: float) -> TileSummary:
    with TileStore.open(path) as store:
        level0 = store.meta.levels[0]
        mpp = slide.info.mpp
        readable = store.readable(config.grid)
        return TileSummary(
            name=slide.info.name,
            path=path,
            state=state,
            tiles=len(readable),
            tiles_total=len(grid_origins(level0, config.tile_size, config.overlap)),
            tissue_fraction=store.meta.tissue.fraction,
            unreadable_tiles=int((~readable).sum()),
            levels=len(store.meta.levels),
            mpp=Mpp(mpp.x * level0.downsample_x, mpp.y * level0.downsample_y) if mpp else None,
            bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
            seconds=time.perf_counter() - started,
        )
