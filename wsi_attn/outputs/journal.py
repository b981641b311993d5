"""Journal of the finished parts of an unfinished output: one line of JSON and its checksum per part, from which a run
resumes.
"""

from __future__ import annotations

import os
import time
import zlib
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
        self._waiting = b""
        self._start = b"\n"  # Ends a line that a killed run left unfinished.
        self._written = time.monotonic()

    def read(self) -> list[Entry]:
        """Return the whole entries, oldest first; a torn or altered line is none."""
        if not self.path.is_file():
            files.remove(self.path)  # Neither is a pipe in its place, which would be read without end.
            return []
        entries = []
        for line in self.path.read_bytes().split(b"\n"):
            entry, _, checksum = line.rpartition(b"\t")
            if checksum == _checksum(entry):
                with suppress(msgspec.DecodeError):
                    entries.append(msgspec.json.decode(entry, type=self._kind))
        return entries

    def append(self, entry: Entry) -> None:
        """Add an entry for a part that is written; it is in the file soon, or after `flush`."""
        line = msgspec.json.encode(entry)
        self._waiting += line + b"\t" + _checksum(line) + b"\n"
        if time.monotonic() - self._written >= self._patience:
            self.flush()

    def flush(self) -> None:
        """Append the waiting entries to the file, on the disk."""
        with self.path.open("ab") as file:
            file.write(self._start + self._waiting)
            file.flush()
            os.fsync(file.fileno())
        self._start = self._waiting = b""
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file when the output is complete."""
        self.path.unlink(missing_ok=True)


def _checksum(line: bytes) -> bytes:
    return b"%08x" % zlib.crc32(line)
