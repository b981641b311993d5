"""Atomic writing of the files of a store, with a record of their sizes and checksums.

A file is written under a temporary name and renamed. Nothing is flushed to the disk: after a power failure a file may
be short or empty, which the sizes and checksums in the metadata reveal.
"""

from __future__ import annotations

from pathlib import Path

from wsi_attn.outputs import files
from wsi_attn.store.schema import FileInfo
from wsi_attn.store.sharding import crc32c


class FolderBackend:
    """The files of one store in a folder, named as by Zarr's `LocalStore`.

    Attributes
    ----------
    written
        Size and checksum of every file written through this object, by key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, FileInfo] = {}

    def get(self, key: str) -> bytes | None:
        """Content of a file; None if it does not exist."""
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, *parts: bytes | memoryview) -> FileInfo:
        """Write a file from its parts, replacing an existing one; returns its size and checksum."""
        path = self.folder / key
        files.write_unflushed(path, *parts)
        self.written[key] = FileInfo(sum(map(len, parts)), crc32c(*parts))
        return self.written[key]
