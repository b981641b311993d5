"""Reading the files of a store with checks of the sizes and checksums in its metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from wsi_attn.errors import StoreDamagedError
from wsi_attn.file_bytes import read_regular
from wsi_attn.store.schema import GROUP_FILE, REMEDY, FileInfo, StoreMeta, is_shard
from wsi_attn.store.sharding import crc32c


class CheckedFiles:
    """The files of a store except its shards: metadata of its arrays, and the chunks of labels and grids.

    Parameters
    ----------
    store
        The store.
    recorded
        Size and checksum of every file; None if the store records none of these files (schema 2).
    """

    def __init__(self, store: Path, recorded: Mapping[str, FileInfo] | None) -> None:
        self.store = store
        self._recorded = recorded

    @classmethod
    def of(cls, store: Path, meta: StoreMeta) -> CheckedFiles:
        """The files of a store with the given metadata."""
        return cls(store, meta.files if meta.records_all_files else None)

    def read(self, key: str) -> bytes:
        """Content of a file.

        Raises
        ------
        StoreDamagedError : the file is missing, is not recorded, or has changed since it was written.
        """
        path = self.store / key
        try:
            data = read_regular(path)
        except OSError as error:
            raise self._damaged(f"{path}: {error.strerror}") from error
        if self._recorded is not None and (problem := difference(path, data, self._recorded.get(key))):
            raise self._damaged(problem)
        return data

    def require(self, key: str) -> None:
        """Check that a file exists and has its recorded size, without reading it; raises the same errors as `read`."""
        path = self.store / key
        try:
            size = path.stat().st_size
        except OSError as error:
            raise self._damaged(f"{path}: {error.strerror}") from error
        recorded = (self._recorded or {}).get(key)
        if recorded is not None and size != recorded.bytes:
            raise self._damaged(f"{path} has {size} bytes instead of {recorded.bytes}")

    def _damaged(self, problem: str) -> StoreDamagedError:
        return StoreDamagedError(f"{self.store} is damaged: {problem}. {REMEDY}")


def difference(path: Path, data: bytes, recorded: FileInfo | None) -> str | None:
    """Describe how the content of a file differs from its record; None if it does not."""
    if recorded is None:
        return f"{path} does not belong to the store"
    if len(data) != recorded.bytes:
        return f"{path} has {len(data)} bytes instead of {recorded.bytes}"
    if crc32c(data) != recorded.crc32c:
        return f"{path} has changed since it was written: its checksum differs"
    return None


def scan(folder: Path, prefix: str) -> dict[str, FileInfo]:
    """Size and checksum of every file in a folder that is not hidden, by `prefix` and the path in the folder."""
    found = {}
    for key in visible_files(folder):
        data = (folder / key).read_bytes()
        found[f"{prefix}/{key}"] = FileInfo(len(data), crc32c(data))
    return found


def visible_files(folder: Path) -> Iterator[str]:
    """Paths in a folder, with slashes, of all files without a hidden part; hidden files are still being written."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def essential_files(meta: StoreMeta) -> list[str]:
    """Recorded files that readers need: all except shards and the labels added by `segment`."""
    return [
        key
        for key in meta.files or {}
        if not is_shard(key) and (not key.startswith("labels/") or key.startswith("labels/tissue/"))
    ] + [GROUP_FILE]
