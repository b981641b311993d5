"""Names of outputs: which are refused as such, and which are reserved for another input of the same run."""

from __future__ import annotations

import re
from pathlib import Path

from wsi_attn.errors import OutputExistsError, UsageError

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""Start of a URL, also after `Path` has removed one of its slashes; a single letter is a Windows drive."""


def url_scheme(path: str | Path) -> str:
    """The scheme of a URL, such as `s3`; empty for a file path."""
    found = URL.match(str(path))
    return found[1].lower() if found else ""


def check_output(path: str | Path, option: str) -> None:
    """Reject an output that is a URL, which would create a local folder named like its scheme.

    Raises
    ------
    UsageError : the output is a URL; the message begins with `option`.
    """
    if scheme := url_scheme(path):
        raise UsageError(
            f"{option}: {scheme} URLs are not supported; use a local path, or mount the storage and use its folder"
        )


FILE_SUFFIXES = {
    *(".csv", ".tsv", ".txt", ".xlsx", ".parquet", ".json", ".geojson", ".htm", ".html", ".pdf", ".zip"),
    *(".jpeg", ".jpg", ".png", ".tif", ".tiff", ".svs", ".ndpi"),
}
"""Suffixes of files, which the name of a new folder is unlikely to have."""


def check_folder(path: Path, option: str) -> None:
    """Reject an output that must be a folder but is, or is named like, a file.

    Raises
    ------
    UsageError : the output is a URL, an existing file, or a new name with the suffix of a file.
    """
    check_output(path, option)
    if path.is_file() or (path.suffix.lower() in FILE_SUFFIXES and not path.exists()):
        what = "is a file" if path.is_file() else f"ends with {path.suffix} like a file"
        raise UsageError(f"{option} takes a folder, but {path} {what}; choose another name")


class Reservations:
    """Output paths of the inputs of a run, so that inputs with equal names do not overwrite each other."""

    def __init__(self) -> None:
        self._inputs: dict[Path, Path] = {}

    def reserve(self, target: Path, path: Path) -> None:
        """Reserve `target` for the input `path`.

        Raises
        ------
        OutputExistsError : it is reserved for another input.
        """
        other = self._inputs.setdefault(target, path)
        if other != path:
            raise OutputExistsError(
                f"{path} and {other} would both write {target}; choose another output folder for one of them", target
            )
