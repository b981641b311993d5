"""Journal of finished shards in an unfinished store: JSON lines, one per shard, appended after the shard is written."""

from __future__ import annotations

import json
import time
from typing import Any

from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.schema import JOURNAL_FILE

PATIENCE = 0.5
"""Seconds between two writes; writing more often would cost more than redoing the shards of that time."""


class Journal:
    """The journal of one store; shards without an entry are written again."""

    def __init__(self, place: FolderBackend) -> None:
        self._place = place
        self._lines = b""
        self._written = time.monotonic()

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        self._lines = self._place.get(JOURNAL_FILE) or b""
        return [json.loads(line) for line in self._lines.splitlines()]

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry; it is written soon, or by `flush`."""
        self._lines += json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if time.monotonic() - self._written >= PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write the appended entries."""
        self._place.put(JOURNAL_FILE, self._lines)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the journal when the store is complete."""
        self._place.delete(JOURNAL_FILE)
