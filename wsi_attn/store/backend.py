"""Where the bytes of a store go, by key: a folder, or anything that fulfils Zarr's store interface.

A value appears whole or not at all: a folder renames it into place, and Zarr's stores promise it of `set`. Nothing is
flushed to the disk by force: after a power cut a file may be short or empty, which the sizes and checksums in the
metadata tell.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # loading Zarr takes a quarter of a second
    from zarr.abc.store import Store

BUFFER_BYTES = 1 << 20
"""What is written at once: a shard has hundreds of parts, most of them small."""


class Backend(Protocol):
    """One store's keys and values."""

    def get(self, key: str) -> bytes | None:
        """A value, None where there is none."""
        ...

    def put(self, key: str, *parts: bytes | memoryview) -> None:
        """Set a value, these parts one after the other, replacing what was there."""
        ...

    def delete(self, key: str) -> None:
        """Remove a value; that there is none is no error."""
        ...


class FolderBackend:
    """The place of a store in a folder, with the files that Zarr's `LocalStore` would make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> bytes | None:
        """See `Backend.get`."""
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, *parts: bytes | memoryview) -> None:
        """See `Backend.put`."""
        path = self.folder / key
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        try:
            try:
                file = temporary.open("wb", BUFFER_BYTES)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = temporary.open("wb", BUFFER_BYTES)
            with file:
                file.writelines(parts)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def delete(self, key: str) -> None:
        """See `Backend.delete`."""
        (self.folder / key).unlink(missing_ok=True)


class ZarrBackend:
    """The place of a store in a store of Zarr's: object storage, memory, an archive."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, key: str) -> bytes | None:
        """See `Backend.get`."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        found = sync(self.store.get(key, default_buffer_prototype()))
        return found.to_bytes() if found is not None else None

    def put(self, key: str, *parts: bytes | memoryview) -> None:
        """See `Backend.put`."""
        from zarr.core.buffer.cpu import Buffer
        from zarr.core.sync import sync

        sync(self.store.set(key, Buffer.from_bytes(b"".join(parts))))

    def delete(self, key: str) -> None:
        """See `Backend.delete`."""
        from zarr.core.sync import sync

        sync(self.store.delete(key))
