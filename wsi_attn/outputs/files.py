"""Atomic writes: an interruption at any moment leaves either the old or the new content, never a mixture."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"
"""End of the names of unfinished files and folders, which also begin with a dot."""

BUFFER_BYTES = 1 << 20
"""Size of the write buffer: a shard has hundreds of parts, most of them small."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file under a temporary name beside it, flush it to the disk and rename it into place."""
    _write(path, (data,), flush=True)


def write_unflushed(path: Path, *parts: bytes | memoryview) -> None:
    """`write_bytes` without the flush: after a power failure the file may be short or empty.

    For files of a store, of which there are thousands and whose sizes and checksums are recorded elsewhere.
    """
    _write(path, parts, flush=False)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text; lone surrogates, as in file names that are not UTF-8, become escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """`write_bytes` for JSON; NaN is rejected, since JSON does not support it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """`write_text` for a table: cells separated by commas, lines that end with a line feed."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    write_text(path, table.getvalue())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces `path`, a folder or a file, if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        remove(swap_in(temporary, path, _beside(path)))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def swap_in(folder: Path, path: Path, retired: Path) -> Path:
    """Rename `folder` to `path`, and what is at `path`, if anything, to `retired`; return `retired`.

    If the second renaming fails, `path` is as before.
    """
    if not os.path.lexists(path):
        folder.rename(path)
        return retired
    path.rename(retired)
    try:
        folder.rename(path)
    except OSError:
        retired.rename(path)
        raise
    return retired


def remove(path: Path) -> None:
    """Delete a file or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def empty(folder: Path) -> None:
    """Make a folder, or delete the content of an existing one; a file at its path is deleted."""
    if not folder.is_dir():
        remove(folder)
        folder.mkdir(parents=True)
    for entry in folder.iterdir():
        remove(entry)


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files and folders beside and inside `path` that a killed process left. Requires its lock."""
    beside = [entry for entry in path.parent.iterdir() if entry.name.startswith(f".{path.name}.")]
    for entry in [*beside, *(path.rglob(f".*{TEMPORARY}") if path.is_dir() else ())]:
        if is_temporary(entry):
            remove(entry)


def is_temporary(path: Path) -> bool:
    """Whether a path has the name of an unfinished file or folder."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY)


def _write(path: Path, parts: Sequence[bytes | memoryview], *, flush: bool) -> None:
    temporary = _beside(path)
    try:
        try:
            file = temporary.open("wb", BUFFER_BYTES)
        except FileNotFoundError:  # Creating folders only then saves a system call for each of thousands of files.
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb", BUFFER_BYTES)
        with file:
            file.writelines(parts)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # The first error counts.
            temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMPORARY}")
