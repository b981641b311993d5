"""Marks: digests of input and settings inside an output, in a text field of its format, by which it is recognised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SEARCHED = 1 << 20
"""Bytes at either end of a file that are searched for its mark."""

BLOCK = 1 << 20


@dataclass(frozen=True)
class Mark:
    """A digest as text."""

    text: str

    def is_in(self, path: Path) -> bool:
        """Whether the output at `path`, a file or a Zarr group, carries this mark."""
        file = path / "zarr.json" if path.is_dir() else path
        try:
            with file.open("rb") as opened:
                head = opened.read(SEARCHED)
                opened.seek(max(0, file.stat().st_size - SEARCHED))
                return self.text.encode() in head or self.text.encode() in opened.read(SEARCHED)
        except OSError:
            return False


def digest(texts: Iterable[str], files: Iterable[Path]) -> str:
    """SHA-256 of texts and of the names and contents of files, as hexadecimal digits."""
    sha256 = hashlib.sha256()
    for text in texts:
        sha256.update(text.encode())
    for file in files:
        sha256.update(os.fsencode(file.name))
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                sha256.update(block)
    return sha256.hexdigest()
