"""Which shards of an unfinished store are done: one JSON line each, appended after the shard is in place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"


class Journal:
    """The journal of one store.

    A process that dies leaves whole lines and at most one torn line at the end, which `read` removes; the
    shard of a torn line is simply written again.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / NAME

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, entry: dict[str, Any]) -> None:
        """Add one entry and wait until it is on disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget everything: the store is complete."""
        self.path.unlink(missing_ok=True)
