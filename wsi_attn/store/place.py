"""Where the bytes of a store go: by key, through Zarr's store interface, a folder or anything else that fulfils it.

A value appears whole or not at all, which Zarr's stores promise for `set`. Nothing is flushed to the disk by force:
after a power cut a file may be short or empty, which the sizes and checksums in the metadata tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loading Zarr takes a quarter of a second
    from zarr.abc.store import Store


class Place:
    """One store's keys and values."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def of_folder(cls, path: Path) -> Place:
        """The place of a store in a folder."""
        from zarr.storage import LocalStore

        return cls(LocalStore(path))

    def get(self, key: str) -> bytes | None:
        """A value, None where there is none."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        found = sync(self.store.get(key, default_buffer_prototype()))
        return found.to_bytes() if found is not None else None

    def put(self, key: str, value: bytes) -> None:
        """Set a value, replacing what was there."""
        from zarr.core.buffer.cpu import Buffer
        from zarr.core.sync import sync

        sync(self.store.set(key, Buffer.from_bytes(value)))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove values; those that are not there are no error."""
        from zarr.core.sync import sync

        for key in keys:
            sync(self.store.delete(key))
