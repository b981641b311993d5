"""Verification of a store: read every file, index, chunk and array again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_attn.errors import SlideReadError, StoreDamagedError, StoreError, UnknownNameError
from wsi_attn.file_bytes import read_regular
from wsi_attn.slide import Progress, no_progress
from wsi_attn.store import sharding
from wsi_attn.store.arrays import read_array
from wsi_attn.store.checked_files import CheckedFiles, difference, visible_files
from wsi_attn.store.chunk_codec import unzstd
from wsi_attn.store.level_chunks import LevelChunks
from wsi_attn.store.schema import (
    COMPLETE,
    GROUP_FILE,
    JOURNAL_FILE,
    TISSUE_LABEL,
    FileInfo,
    StoreMeta,
    is_shard,
    read_meta,
)
from wsi_attn.store.tile_store import TileStore
from wsi_attn.threads import thread_limit


@dataclass(frozen=True)
class Verdict:
    """Result of `verify_store`.

    Attributes
    ----------
    files, chunks, bytes
        Files whose checksums were compared, chunks of pixels in them, and their size.
    problems
        Sentences that describe damage; empty if the store is intact.
    notes
        Facts that could not be verified, and unfinished but undamaged parts.
    """

    path: Path
    files: int
    chunks: int
    bytes: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify_store(path: Path, *, decode: bool = True, progress: Progress = no_progress) -> Verdict:
    """Read a whole store and report missing or damaged parts.

    Parameters
    ----------
    decode
        Also decode every chunk. Otherwise sizes, checksums and indexes are compared, which detects every change
        since the store was written, about twenty times faster.

    Raises
    ------
    SlideNotFoundError, StoreSchemaError : there is no store to verify.
    """
    try:
        meta = read_meta(path)
    except StoreDamagedError as error:
        return Verdict(path, 0, 0, 0, (str(error),))
    problems = [] if meta.state == COMPLETE else [f"{path} is unfinished; `wsi-attn tile` resumes it"]
    levels, found = _levels(path, meta)
    replaced = meta.addition.covers if meta.addition else lambda key: False  # files of a group that is being replaced
    files = {key: file for key, file in (meta.files or {}).items() if not replaced(key)}
    count = 0
    progress(0, len(files), "verifying")
    with ThreadPoolExecutor(thread_limit()) as pool:
        checked = pool.map(lambda item: _check_file(path, meta, levels, *item, decode=decode), files.items())
        for done, (chunks, damage) in enumerate(checked, 1):
            count += chunks
            problems += damage
            progress(done, len(files), "verifying")
    if meta.state == COMPLETE:  # an unfinished store has files that are not recorded yet
        problems += _unknown_files(path, meta)
        if not (problems and meta.records_all_files):  # otherwise they would follow from the problems above
            problems += [*found, *_check_arrays(path, meta)]
    notes = tuple(_notes(path, meta))
    return Verdict(path, len(files), count, sum(file.bytes for file in files.values()), tuple(problems), notes)


def _levels(path: Path, meta: StoreMeta) -> tuple[tuple[LevelChunks | None, ...], list[str]]:
    """The levels, None if their metadata is damaged, and the problems."""
    levels: list[LevelChunks | None] = []
    problems = []
    for index, level in enumerate(meta.levels):
        try:
            levels.append(LevelChunks(CheckedFiles.of(path, meta), index, level))
        except StoreError as error:
            levels.append(None)
            problems.append(str(error))
    return tuple(levels), problems


def _check_file(
    path: Path, meta: StoreMeta, levels: tuple[LevelChunks | None, ...], key: str, file: FileInfo, *, decode: bool
) -> tuple[int, list[str]]:
    """Number of pixel chunks in a file, and its problems."""
    try:
        content = read_regular(path / key)
    except OSError as error:
        return 0, [f"{path / key}: {error.strerror}"]
    problem = difference(path / key, content, file)
    new = meta.addition.files.get(key) if meta.addition else None
    if problem and new and difference(path / key, content, new) is None:
        problem = None
    found = [problem] if problem else []
    if not is_shard(key) or len(content) != file.bytes or (chunks := levels[sharding.shard_of(key)[0]]) is None:
        return 0, found
    count, damage = _check_shard(path, chunks, key, content, decode=decode)
    return count, found + damage


def _check_shard(path: Path, chunks: LevelChunks, key: str, content: bytes, *, decode: bool) -> tuple[int, list[str]]:
    _, row, column = sharding.shard_of(key)
    rows, columns = chunks.shard
    try:
        offsets, lengths = sharding.decode_index(content[-sharding.index_bytes(rows * columns) :], rows * columns)
    except ValueError as error:
        return 0, [f"{path / key}: {error}"]
    found = []
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
    """Files without a record, which Zarr would read as pixels, labels or scores."""
    levels = {str(index) for index in range(len(meta.levels))}
    for key in visible_files(path):
        if key in (GROUP_FILE, JOURNAL_FILE) or key in (meta.files or {}):
            continue
        if meta.addition and (meta.addition.covers(key) or key in meta.addition.files):
            continue
        parts = key.split("/")
        if meta.records_all_files or (parts[0] in levels and parts[1:2] == ["c"]):
            yield f"{path / key} does not belong to the store"


def _check_arrays(path: Path, meta: StoreMeta) -> Iterator[str]:
    """Tissue, coordinates and scores: they decode and have equal lengths."""
    try:
        with TileStore.open(path) as store:
            for index in range(len(store.meta.levels)):
                read_array(store.files.read, f"labels/{TISSUE_LABEL}/{index}", path)
            store.tissue_label()
            for grid in store.grids():
                lengths = {len(store.coords(grid)), len(store.readable(grid))}
                lengths |= {len(store.scores(grid, name)) for name in store.grid(grid).scores}
                if len(lengths) > 1:
                    yield f"{path}: the arrays of grid {grid!r} differ in length"
    except (StoreError, UnknownNameError) as error:
        yield str(error)
    if not meta.records_all_files:
        yield from _check_label_chunks(path)


def _check_label_chunks(path: Path) -> Iterator[str]:
    """Chunks of labels that `segment` added to a store without checksums: existing ones must decode."""
    for key in visible_files(path / "labels"):
        if "/c/" not in key or key.startswith(f"{TISSUE_LABEL}/"):
            continue
        file = path / "labels" / key
        try:
            unzstd(read_regular(file))
        except (OSError, RuntimeError, ValueError) as error:
            yield f"{file} is damaged: it cannot be decoded ({error})"


def _notes(path: Path, meta: StoreMeta) -> Iterator[str]:
    if meta.addition is not None:
        yield (
            f"{path}: adding {meta.addition.group} was interrupted; rerun the command that added it. "
            "Until then it counts as absent"
        )
    if not meta.records_all_files:
        yield (
            f"{path} was written by an earlier version (schema {meta.schema_version}), which recorded checksums of "
            "pixels only: metadata, labels, coordinates and scores are complete and decode, but changed values in "
            "them cannot be detected. `wsi-attn tile SLIDE --overwrite` writes a store with checksums of every file"
        )
