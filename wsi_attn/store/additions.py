"""Adding a grid or a label to a complete store while its metadata always matches its files.

The root metadata first announces the addition (`schema.Addition`), then the files are written, then the metadata
records them. A process killed between these steps leaves a store that readers and `verify` understand; the next
addition, or `recover`, completes or undoes the interrupted one.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from wsi_attn.file_bytes import read_regular
from wsi_attn.outputs import files
from wsi_attn.outputs.lock import output_lock
from wsi_attn.store.checked_files import difference
from wsi_attn.store.schema import COMPLETE, GROUP_FILE, Addition, FileInfo, StoreMeta, encode_root, read_root

PATIENCE = 60.0
"""Seconds to wait while another process records an addition, which takes a fraction of a second."""


@contextmanager
def adding(store: Path, group: str) -> Iterator[Callable[[Mapping[str, FileInfo]], None]]:
    """Add the group `group` to a store, or replace it.

    Yields a function that must be called with all files of the group, and every other file that changes, before the
    first of them is written. If the block ends without an error, the metadata records these files. For a store that
    is still being written, or that records only shards, the caller is responsible.

    Raises
    ------
    OutputBusyError : another process holds the lock of the metadata.
    StoreError : the metadata of the store is unreadable.
    """
    with output_lock(store / GROUP_FILE, wait=PATIENCE):
        recover_locked(store)
        meta, _ = read_root(store)
        recording = meta.records_all_files and meta.state == COMPLETE

        def announce(written: Mapping[str, FileInfo]) -> None:
            if recording:
                write_root(store, dataclasses.replace(meta, addition=Addition(group, dict(written))))

        yield announce
        if recording:
            commit(store)


def recover(store: Path) -> None:
    """Complete or undo an interrupted addition, if any."""
    if read_root(store)[0].addition is not None:
        with output_lock(store / GROUP_FILE, wait=PATIENCE):
            recover_locked(store)


def recover_locked(store: Path) -> None:
    """`recover` for callers that hold the lock of the metadata."""
    meta, _ = read_root(store)
    if meta.addition is None:
        return
    if all(is_there(store, key, file) for key, file in meta.addition.files.items()):
        commit(store)
        return
    group = store / meta.addition.group
    if not any(meta.addition.covers(key) for key in meta.files or {}):
        shutil.rmtree(group, ignore_errors=True)
    elif not group.exists() and retired_name(group).exists():
        retired_name(group).rename(group)
    write_root(store, dataclasses.replace(meta, addition=None))


def commit(store: Path) -> None:
    """Record the files of the announced addition in place of the group's previous files."""
    meta, _ = read_root(store)
    if (addition := meta.addition) is None:
        return
    kept = {key: file for key, file in (meta.files or {}).items() if not addition.covers(key)}
    write_root(store, dataclasses.replace(meta, files={**kept, **addition.files}, addition=None))
    shutil.rmtree(retired_name(store / addition.group), ignore_errors=True)


def write_root(store: Path, meta: StoreMeta) -> None:
    """Replace the `wsi_attn` metadata of a store and keep its other attributes."""
    _, attributes = read_root(store)
    files.write_bytes(store / GROUP_FILE, encode_root(attributes, meta))


def retired_name(group: Path) -> Path:
    """Temporary path of a group's old files while new ones replace them."""
    return group.with_name(f".{group.name}.old")


def is_there(store: Path, key: str, file: FileInfo) -> bool:
    """Whether a file has the given size and checksum."""
    try:
        return difference(store / key, read_regular(store / key), file) is None
    except OSError:
        return False
