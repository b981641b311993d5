"""Journal of the finished parts of an unfinished output: JSON lines, one per part, from which a run resumes."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from wsi_attn.outputs import files

Entry = TypeVar("Entry", bound=msgspec.Struct)


class Journal(Generic[Entry]):
    """A journal file; parts without an entry are written again.

    Parameters
    ----------
    path
        The file.
    kind
        Type of its entries.
    patience
        Seconds between two writes of the file: less than it takes to write the parts of that time again.
    """

    def __init__(self, path: Path, kind: type[Entry], patience: float = 0.0) -> None:
        self.path = path
        self._kind, self._patience = kind, patience
        self._lines = b""
        self._written = time.monotonic()

    def read(self) -> list[Entry]:
        """Return all entries, oldest first, to which later ones are appended; a truncated line is none."""
        entries = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            with suppress(msgspec.DecodeError):
                entries.append(msgspec.json.decode(line, type=self._kind))
                self._lines += line + b"\n"
        return entries

    def append(self, entry: Entry) -> None:
        """Add an entry for a part that is written; it is in the file soon, or after `flush`."""
        self._lines += msgspec.json.encode(entry) + b"\n"
        if time.monotonic() - self._written >= self._patience:
            self.flush()

    def flush(self) -> None:
        """Write the appended entries."""
        files.write_unflushed(self.path, self._lines)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file when the output is complete."""
        self.path.unlink(missing_ok=True)
