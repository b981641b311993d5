"""`tile_slide`: write one slide into one store, shard by shard, resumable, with memory independent of slide size.

Shards are written whole and in order; only a few are in progress, and only their compressed chunks are held. A journal
records finished shards; after an interruption at any moment, the next run resumes and produces the same bytes. The
output does not depend on the clock, the machine or the number of threads.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Mpp, Region
from wsi_attn.outputs.policy import State, claim
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.store import sharding
from wsi_attn.store.additions import write_root
from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.schema import COMPLETE, FileInfo, ShardRecord, StoreMeta, Unreadable, journal_of, read_meta
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.config import TileConfig, TileSummary
from wsi_attn.tiling.grids import ScoredGrid, add_grid, chunks_ahead, plan_grid, score_grid
from wsi_attn.tiling.levels import HALVED, LevelPlan, plan_levels
from wsi_attn.tiling.pixels import Chunks, blocks_of, copy_chunks, encode_chunks, halved_regions, reader_of
from wsi_attn.tiling.prepare import load_ahead, prepare, store_output
from wsi_attn.tiling.select import (
    chunk_counts,
    grid_origins,
    origins_from0,
    select_tiles,
    touched_chunks,
    wanted_chunks,
)
from wsi_attn.tissue.find import stored_tissue
from wsi_attn.tissue.mask import TissueMask

__all__ = ["TileConfig", "TileSummary", "tile_slide"]


SHARDS_AHEAD = 1
"""Shards read ahead while another one is finished; together they are all of the slide that is in memory."""


def tile_slide(
    slide: Slide, output: Path, config: TileConfig, overwrite: bool = False, progress: Progress = no_progress
) -> TileSummary:
    """Write the store of a slide, or add a grid to it.

    A complete store of the same slide and parameters is left unchanged and an unfinished one is resumed; if only
    the grid is missing it is added without changing the pixels. Unreadable regions are masked, recorded and
    counted, and are not an error; neither is a slide without tissue.

    Parameters
    ----------
    output
        The `.zarr` folder; its parents are created.
    overwrite
        Replace existing content of `output`.

    Raises
    ------
    OutputExistsError : `output` exists and is something else.
    OutputBusyError : another process is writing it.
    MissingMppError, UsageError : `config.mpp` is not possible for this slide.
    NotEncodedError : `config.codec` is `passthrough` and the slide's tiles cannot be copied.
    """
    started = time.perf_counter()
    with claim(store_output(slide, output, config), overwrite=overwrite) as found:
        if found.state is State.COMPLETE:
            store = TileStore(output, read_meta(output))
            return _summary(slide, store, store.readable(config.grid), config, "skipped", started)
        load_ahead(config)
        mask = prepare(slide, output, config, progress) if found.state is State.NEW else None
        store = TileStore(output, read_meta(output))
        mask = mask or stored_tissue(store)
        has_pixels = found.result is not None
        with _pool(config.threads()) as pool:
            scored = None
            if not has_pixels:
                store, scored = _write_pixels(slide, store, mask, config, pool, progress)
            added = add_grid(store, mask, config, pool, progress, scored)
            if not has_pixels:
                _mark_complete(store, added.files)
        state = "written" if found.state is State.NEW else "added" if has_pixels else "resumed"
        return _summary(slide, store, added.readable, config, state, started)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Thread pool that drops waiting tasks if the block ends with an error or an interruption."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tile")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_pixels(
    slide: Slide, store: TileStore, mask: TissueMask, config: TileConfig, pool: ThreadPoolExecutor, progress: Progress
) -> tuple[TileStore, ScoredGrid | None]:
    """Write the pixels of the store, and the scores of its grid if they can be computed while copying.

    Copying waits for the disk and scoring for the processor, so both together take little longer than one.
    """
    writer = _Writer(slide, store, mask, config, pool, progress)
    chunks = chunks_ahead(store, config, writer.plans[0])
    if chunks is None:
        return writer.run(), None
    writer.ahead = 0  # scoring needs the other cores and the memory
    copied = threading.Event()

    def say(done: int, total: int, what: str) -> None:
        if copied.is_set():  # until then the copy reports progress
            progress(done, total, what)

    # Closed from the right: an error drops the waiting batches, so nothing waits for them.
    with _pool(1) as beside, _pool(config.threads()) as scorers:
        scored = beside.submit(score_grid, store, mask, config, scorers, say, chunks)
        written = writer.run()
        copied.set()
        return written, scored.result()


@dataclass
class _LevelState:
    """State of a level: its unreadable chunks and finished shards."""

    bad: NDArray[np.bool_]
    done: set[tuple[int, int]] = field(default_factory=set)


@dataclass(eq=False)
class _Writer:
    """One run over the pixels of one store; releases everything when it ends."""

    slide: Slide
    store: TileStore
    mask: TissueMask
    config: TileConfig
    pool: ThreadPoolExecutor
    progress: Progress

    def __post_init__(self) -> None:
        self.ahead = SHARDS_AHEAD
        self.plans = plan_levels(self.slide, self.config)
        self.place = FolderBackend(self.store.path)
        self.journal = journal_of(self.store.path)
        self.states = [_LevelState(np.zeros(chunk_counts(plan.level), np.bool_)) for plan in self.plans]
        self.files: dict[str, FileInfo] = {}
        self.damage: list[list[Region]] = []
        self.done, self.total = 0, sum(math.prod(chunk_counts(plan.level)) for plan in self.plans)

    def run(self) -> TileStore:
        """Write everything that the journal does not record; returns the store with all pixels, not yet complete."""
        for entry in self.journal.read():
            self._replay(entry)
        for index, plan in enumerate(self.plans):
            self._write_level(index, plan)
        self.journal.flush()  # scoring takes a while
        return TileStore(self.store.path, self._meta())

    def _replay(self, record: ShardRecord) -> None:
        """Accept a journal entry if its shard is present and intact; a power failure may have removed it."""
        if record.bytes:
            content = self.place.get(sharding.shard_key(record.level, record.row, record.column))
            if content is None or len(content) != record.bytes or sharding.crc32c(content) != record.crc32c:
                return
        self._restore_shard(record)

    def _write_level(self, index: int, plan: LevelPlan) -> None:
        known = halved_regions(self.damage[plan.source]) if plan.origin == HALVED else []
        encode = self._copier(index, plan) if plan.tiles is not None else self._encoder(index, plan, known)
        waiting: deque[tuple[Region, Callable[[], ShardRecord]]] = deque()
        for shard in _shards(plan):
            if _place(plan, shard) in self.states[index].done:
                self._advance(shard)
                continue
            waiting.append((shard, encode(shard)))
            if len(waiting) > self.ahead:
                self._finish_shard(*waiting.popleft())
        while waiting:
            self._finish_shard(*waiting.popleft())
        self.damage.append(known + _rectangles(self.states[index].bad, plan))

    def _copier(self, index: int, plan: LevelPlan) -> Callable[[Region], Callable[[], ShardRecord]]:
        """Start copying a shard in one thread; returns a function that waits for it."""
        wanted, tiles = self._wanted(index, plan), plan.tiles
        assert tiles is not None  # noqa: S101 - levels that are passed through have tiles

        def copy(shard: Region) -> ShardRecord:
            return self._store_shard(index, plan, shard, [copy_chunks(tiles, wanted, shard)])

        return lambda shard: self.pool.submit(copy, shard).result

    def _encoder(
        self, index: int, plan: LevelPlan, known: list[Region]
    ) -> Callable[[Region], Callable[[], ShardRecord]]:
        """Start reading and compressing the blocks of a shard in threads; returns a function that waits and
        stores it.
        """
        wanted, read = self._wanted(index, plan), reader_of(plan, self.slide, self.store, known)

        def start(shard: Region) -> Callable[[], ShardRecord]:
            futures = [
                self.pool.submit(encode_chunks, plan.level, plan.codec, read, wanted, block)
                for block in blocks_of(plan.level, shard)
            ]

            def finish() -> ShardRecord:
                return self._store_shard(index, plan, shard, [future.result() for future in futures])

            return finish

        return start

    def _wanted(self, index: int, plan: LevelPlan) -> NDArray[np.bool_]:
        if self.config.background == "keep":
            return np.ones(chunk_counts(plan.level), np.bool_)
        wanted = wanted_chunks(self.mask, plan.level)
        if index > 0:
            return wanted
        grid, frame = plan_grid(self.store, self.config)
        coords0 = select_tiles(self.mask, frame, grid.tile_size, grid.overlap, grid.min_tissue)
        return wanted | touched_chunks(origins_from0(coords0, plan.level), grid.tile_size, plan.level)

    def _store_shard(self, index: int, plan: LevelPlan, shard: Region, chunks: list[Chunks]) -> ShardRecord:
        """Write the file of a shard, unless all of it is background."""
        rows, columns = sharding.shard_chunks(plan.level.size, plan.level.tile_size)
        cells = np.concatenate([part.cells for part in chunks]) - np.array([shard.y, shard.x])
        numbers: NDArray[np.int64] = cells[:, 0] * columns + cells[:, 1]
        data = chunks[0].data
        if len(chunks) > 1:  # blocks are not in shard order
            order, data = np.argsort(numbers), [chunk for part in chunks for chunk in part.data]
            numbers, data = numbers[order], [data[index] for index in order.tolist()]
        parts = sharding.encode_shard(numbers, data, rows * columns)
        unreadable = [(row, column) for part in chunks for row, column in part.bad.tolist()]
        place = _place(plan, shard)
        file = self.place.put(sharding.shard_key(index, *place), *parts) if parts else FileInfo(0, 0)
        return ShardRecord(index, *place, unreadable, file.bytes, file.crc32c)

    def _finish_shard(self, shard: Region, wait: Callable[[], ShardRecord]) -> None:
        record = wait()
        self._restore_shard(record)
        self.journal.append(record)
        self._advance(shard)

    def _restore_shard(self, record: ShardRecord) -> None:
        state = self.states[record.level]
        state.done.add((record.row, record.column))
        for row, column in record.unreadable:
            state.bad[row, column] = True
        if record.bytes:
            key = sharding.shard_key(record.level, record.row, record.column)
            self.files[key] = FileInfo(record.bytes, record.crc32c)

    def _advance(self, shard: Region) -> None:
        self.done += shard.width * shard.height
        self.progress(self.done, self.total, "tiling")

    def _meta(self) -> StoreMeta:
        """The metadata of the complete store."""
        unreadable = [
            Unreadable(index, *plan.level.region0_from(*region))
            for index, plan in enumerate(self.plans)
            for region in self.damage[index]
        ]
        recorded = {**(self.store.meta.files or {}), **self.files}
        pixels = tuple(
            stored._replace(reason=_recoded(plan.tiles.recoded))
            if plan.tiles is not None and plan.tiles.recoded
            else stored
            for stored, plan in zip(self.store.meta.pixels, self.plans, strict=True)
        )
        return dataclasses.replace(
            self.store.meta, state=COMPLETE, unreadable=tuple(unreadable), files=recorded, pixels=pixels
        )


def _mark_complete(store: TileStore, grid: Mapping[str, FileInfo]) -> None:
    """Last step: record that the store is complete, with the sizes and checksums of its files."""
    meta = store.meta
    if meta.records_all_files:
        meta = dataclasses.replace(meta, files={**(meta.files or {}), **grid})
    write_root(store.path, meta)
    journal_of(store.path).remove()


def _recoded(count: int) -> str:
    return f"{count} of its tiles state different colours than the rest and are recompressed"


def _shards(plan: LevelPlan) -> Iterator[Region]:
    """Shards of a level in write order, each as a region of chunks."""
    count_y, count_x = chunk_counts(plan.level)
    rows, columns = sharding.shard_chunks(plan.level.size, plan.level.tile_size)
    return Region(0, 0, count_x, count_y).split(columns, rows)


def _place(plan: LevelPlan, shard: Region) -> tuple[int, int]:
    rows, columns = sharding.shard_chunks(plan.level.size, plan.level.tile_size)
    return shard.y // rows, shard.x // columns


def _rectangles(bad: NDArray[np.bool_], plan: LevelPlan) -> list[Region]:
    """Unreadable chunks as rectangles in pixels of the level; neighbours in a row are merged."""
    (width, height), size = plan.level.tile_size, plan.level.size
    found = []
    for row in np.flatnonzero(bad.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(bad[row].astype(np.int8), prepend=0, append=0)).tolist()
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            x, y = first * width, row * height
            found.append(Region(x, y, min(last * width, size.width) - x, min(height, size.height - y)))
    return found


def _summary(
    slide: Slide, store: TileStore, readable: NDArray[np.bool_], config: TileConfig, state: str, started: float
) -> TileSummary:
    grid, frame = plan_grid(store, config)
    mpp = slide.info.mpp
    return TileSummary(
        name=slide.info.name,
        path=store.path,
        state=state,
        tiles=len(readable),
        tiles_total=len(grid_origins(frame, grid.tile_size, grid.overlap)),
        tissue_fraction=store.meta.tissue.fraction,
        unreadable_tiles=int((~readable).sum()),
        levels=len(store.meta.levels),
        pixels=store.meta.pixels,
        mpp=Mpp(mpp.x * frame.downsample_x, mpp.y * frame.downsample_y) if mpp else None,
        bytes=sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()),
        seconds=time.perf_counter() - started,
    )
