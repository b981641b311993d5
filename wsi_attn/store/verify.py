"""Whether a store is still what was written: every file, index, chunk and array is read again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_attn.errors import SlideReadError, StoreError, WsiAttnError
from wsi_attn.slide import Progress, no_progress
from wsi_attn.store import sharding
from wsi_attn.store.level_chunks import LevelChunks
from wsi_attn.store.schema import COMPLETE, TISSUE_LABEL, FileInfo, StoreMeta, read_meta
from wsi_attn.store.tile_store import TileStore
from wsi_attn.threads import thread_limit


@dataclass(frozen=True)
class Verdict:
    """What `verify_store` found; `problems` are sentences, none where the store is sound."""

    path: Path
    files: int
    chunks: int
    bytes: int
    problems: tuple[str, ...]


def verify_store(
    path: Path, *, decode: bool = True, workers: int | None = None, progress: Progress = no_progress
) -> Verdict:
    """Read a whole store and say what is missing or damaged.

    Parameters
    ----------
    decode
        Decode every chunk as well; without it sizes, checksums and indexes are compared, which finds all that has
        changed since the store was written, some twenty times faster.

    Raises
    ------
    SlideNotFoundError, StoreSchemaError : there is no store of ours to verify.
    """
    meta = read_meta(path)
    problems = [] if meta.state == COMPLETE else [f"{path} was never finished; `wsi-attn tile` resumes it"]
    files = meta.files or {}
    levels = tuple(LevelChunks(path, index, level) for index, level in enumerate(meta.levels))
    threads = workers or thread_limit()
    count = 0
    with ThreadPoolExecutor(threads) as pool:
        checked = pool.map(lambda item: _check_shard(path, levels, *item, decode=decode), files.items())
        for done, (chunks, found) in enumerate(checked, 1):
            count += chunks
            problems += found
            progress(done, len(files), "verifying")
    if meta.state == COMPLETE:  # else what is there is nobody's yet
        problems += [*_unknown_files(path, meta), *_check_arrays(path)]
    return Verdict(path, len(files), count, sum(file.bytes for file in files.values()), tuple(problems))


def _check_shard(
    path: Path, levels: tuple[LevelChunks, ...], key: str, file: FileInfo, *, decode: bool
) -> tuple[int, list[str]]:
    try:
        content = (path / key).read_bytes()
    except OSError as error:
        return 0, [f"{path / key}: {error.strerror}"]
    if len(content) != file.bytes:
        return 0, [f"{path / key} has {len(content)} bytes instead of {file.bytes}"]
    found = []
    if sharding.crc32c(content) != file.crc32c:
        found.append(f"{path / key} has changed since it was written: its checksum differs")
    index, row, column = sharding.shard_of(key)
    chunks = levels[index]
    rows, columns = chunks.shard
    try:
        offsets, lengths = sharding.decode_index(content[-sharding.index_bytes(rows * columns) :], rows * columns)
    except ValueError as error:
        return 0, [*found, f"{path / key}: {error}"]
    present = np.flatnonzero(lengths)
    data = memoryview(content)
    for number in present.tolist() if decode else []:
        cell = row * rows + number // columns, column * columns + number % columns
        try:
            chunks.decode(cell, data[int(offsets[number]) : int(offsets[number] + lengths[number])])
        except SlideReadError as error:
            found.append(str(error))
    return len(present), found


def _unknown_files(path: Path, meta: StoreMeta) -> Iterator[str]:
    """Chunks that nobody wrote: they would be read as pixels."""
    for index in range(len(meta.levels)):
        for file in sorted((path / str(index) / "c").rglob("*")):
            if file.is_file() and file.relative_to(path).as_posix() not in (meta.files or {}):
                yield f"{file} does not belong to the store"


def _check_arrays(path: Path) -> Iterator[str]:
    """Tissue, coordinates, scores: read, decoded against their checksums, and of one length."""
    with TileStore.open(path) as store:
        try:
            for index in range(len(store.meta.levels)):
                store.array(f"labels/{TISSUE_LABEL}/{index}")[...]
            for grid in store.grids():
                lengths = {len(store.coords(grid)), len(store.readable(grid))}
                lengths |= {len(store.scores(grid, name)) for name in store.grid(grid).scores}
                if len(lengths) > 1:
                    yield f"{path}: the arrays of grid {grid!r} differ in length"
        except (WsiAttnError, OSError, RuntimeError, ValueError) as error:
            yield f"{path}: {error}" if not isinstance(error, StoreError) else str(error)
