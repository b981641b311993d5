"""Which shards of an unfinished store are done: JSON lines, one per shard, written after the shard is in place."""

from __future__ import annotations

import json
import time
from typing import Any

from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.schema import JOURNAL_FILE

PATIENCE = 0.5
"""Seconds between two writes: more often would cost more than what is lost, the shards of that time."""


class Journal:
    """The journal of one store; a shard that it does not name is simply written again."""

    def __init__(self, place: FolderBackend) -> None:
        self._place = place
        self._lines = b""
        self._written = time.monotonic()

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        self._lines = self._place.get(JOURNAL_FILE) or b""
        return [json.loads(line) for line in self._lines.splitlines()]

    def append(self, entry: dict[str, Any]) -> None:
        """Add one entry to those read or appended before; it is written soon, or by `flush`."""
        self._lines += json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        if time.monotonic() - self._written >= PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Write what was appended."""
        self._place.put(JOURNAL_FILE, self._lines)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the journal: the store is complete."""
        self._place.delete(JOURNAL_FILE)
