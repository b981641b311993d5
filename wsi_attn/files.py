"""Writing files so that a kill at any moment leaves the old content or the new, never half of either."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsi_attn.errors import OutputExistsError, UsageError

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""How a URL begins, also after `Path` has dropped one of its slashes; one letter is a drive of Windows."""


def url_scheme(path: str | Path) -> str:
    """The scheme of a URL, such as `s3`; empty for the path of a file."""
    found = URL.match(str(path))
    return found[1].lower() if found else ""


def check_output(path: str | Path, option: str) -> None:
    """Make sure that an output is not a URL, which would become a local folder named like its scheme.

    Raises
    ------
    UsageError : it is one; the message begins with `option`.
    """
    if scheme := url_scheme(path):
        raise UsageError(
            f"{option}: {scheme} URLs are not supported; name a local path, or mount the storage and name its folder"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file under a temporary name beside it, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text; lone surrogates, as of file names that are not UTF-8, are written as escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


class Reservations:
    """Which input of a run writes to which place, so that no two inputs of one name write over each other."""

    def __init__(self) -> None:
        self._inputs: dict[Path, Path] = {}

    def reserve(self, target: Path, path: Path) -> None:
        """`target` is for the input `path` from now on.

        Raises
        ------
        OutputExistsError : it is another input's.
        """
        other = self._inputs.setdefault(target, path)
        if other != path:
            raise OutputExistsError(f"{path} and {other} would both write {target}; name another folder for one")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to, which becomes `path` when the block ends without error."""
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
    """A temporary folder that becomes `path`, replacing what was there, when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            retired = _beside(path)
            path.rename(retired)
            try:
                temporary.rename(path)
            except OSError:
                retired.rename(path)
                raise
            shutil.rmtree(retired)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
