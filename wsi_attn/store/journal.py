"""Journal of finished shards in an unfinished store: JSON lines, one per shard, appended after the shard is written."""

from __future__ import annotations

import time

import msgspec

from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.schema import JOURNAL_FILE

PATIENCE = 0.5
"""Seconds between two writes; writing more often would cost more than redoing the shards of that time."""


class ShardRecord(msgspec.Struct, frozen=True):
    """Journal entry: a shard in units of shards, its file (0 bytes if all background) and its unreadable chunks."""

    level: int
    row: int
    column: int
    unreadable: list[tuple[int, int]]
    bytes: int
    crc32c: int


class Journal:
    """The journal of one store; shards without an entry are written again."""

    def __init__(self, place: FolderBackend) -> None:
        self._place = place
        self._lines = b""
        self._written = time.monotonic()

    def read(self) -> list[ShardRecord]:
        """All entries, oldest first."""
        self._lines = self._place.get(JOURNAL_FILE) or b""
        return [msgspec.json.decode(line, type=ShardRecord) for line in self._lines.splitlines()]

    def append(self, entry: ShardRecord) -> None:
        """Add an entry; it is written soon, or by `flush`."""
        self._lines += msgspec.json.encode(entry) + b"\n"
        if time.monotonic() - self._written >= PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write the appended entries."""
        self._place.put(JOURNAL_FILE, self._lines)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the journal when the store is complete."""
        self._place.delete(JOURNAL_FILE)
