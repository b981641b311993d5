"""DICOM series: the levels, label and overview of one slide in separate files.

OpenSlide opens a series from any of its files and finds the others in the same folder. Here every file of a series, and
the folder itself, represent the same slide: the file of its largest level, under one name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wsi_attn.errors import SlideUnsupportedError

MAGIC, PREAMBLE = b"DICM", 128

VOLUME = "VOLUME"
"""Third value of Image Type of the instances that contain levels."""

SERIES_UID, IMAGE_TYPE = 0x0020000E, 0x00080008
MATRIX_COLUMNS, MATRIX_ROWS = 0x00480006, 0x00480007
"""Tags: Series Instance UID, Image Type, Total Pixel Matrix Columns and Rows."""


@dataclass(frozen=True)
class Instance:
    """One DICOM file: its series, whether it contains a level, and the number of pixels of that level."""

    path: Path
    series: str
    is_volume: bool
    pixels: int


@dataclass(frozen=True)
class Series:
    """The files of one series in one folder.

    Attributes
    ----------
    name
        Stem of output names: the folder name if it has several files and no other series, otherwise the stem of
        `main`.
    main
        The file of the largest level, which represents the slide.
    files
        All files, sorted by name.
    """

    name: str
    main: Path
    files: tuple[Path, ...]


def is_dicom(path: Path) -> bool:
    """Return whether a regular file starts with the DICOM signature."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def series_in(folder: Path) -> list[Series]:
    """Return the DICOM slides in a folder, not its subfolders, sorted by name; series without a level are omitted.

    Raises
    ------
    OSError : the folder cannot be read.
    """
    instances = [each for path in sorted(folder.iterdir()) if is_dicom(path) and (each := _instance(path))]
    by_uid: dict[str, list[Instance]] = {}
    for instance in instances:
        by_uid.setdefault(instance.series, []).append(instance)
    found: list[Series] = []
    for members in by_uid.values():
        levels = [member for member in members if member.is_volume]
        if not levels:
            continue
        main = max(levels, key=lambda level: level.pixels).path  # The first by name among equals.
        alone = len(by_uid) == 1 and len(members) > 1
        name = folder.resolve().name if alone else main.stem
        found.append(Series(name, main, tuple(member.path for member in members)))
    return sorted(found, key=lambda series: series.main.name)


def series_of(path: Path) -> Series | None:
    """Return the series of a DICOM file or of a folder with one series; None for other paths.

    Raises
    ------
    SlideUnsupportedError : the folder has several series.
    """
    if path.is_dir():
        series = series_in(path)
        if len(series) > 1:
            raise SlideUnsupportedError(
                f"Cannot open {path}: it contains {len(series)} DICOM series; "
                f"use a file of one series, such as {series[0].main}"
            )
        return series[0] if series else None
    if not is_dicom(path):
        return None
    return next((series for series in series_in(path.parent) if path in series.files), None)


class SeriesIndex:
    """Cached lookup of the series of many paths; reads each folder once."""

    def __init__(self) -> None:
        self._known: dict[Path, Series] = {}

    def of(self, path: Path) -> Series | None:
        """Like `series_of`, but None for unreadable paths; opening them reports the reason."""
        if path in self._known:
            return self._known[path]
        try:
            series = None if (path / "zarr.json").exists() else series_of(path)
        except (SlideUnsupportedError, OSError):
            return None
        if series is not None:
            self._known |= dict.fromkeys(series.files, series)
        return series


def one_per_series(paths: Iterable[Path]) -> list[Path]:
    """Return the paths in order, each DICOM series once as its main file."""
    index = SeriesIndex()
    return list(dict.fromkeys(series.main if (series := index.of(path)) else path for path in paths))


def _instance(path: Path) -> Instance | None:
    status = path.stat()
    return _read_instance(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_instance(path: Path, _size: int, _modified_ns: int) -> Instance | None:
    """Read the header of a file; None if it is unreadable. Size and time of the file are part of the cache key."""
    from pydicom import config
    from pydicom.filereader import read_partial

    config.settings.reading_validation_mode = config.IGNORE  # Avoids a warning for each unusual value.
    try:
        with path.open("rb") as file:
            header = read_partial(file, lambda tag, _vr, _length: tag > MATRIX_ROWS)
        kind = [str(value) for value in header[IMAGE_TYPE].value]
        size = [int(header[tag].value) for tag in (MATRIX_COLUMNS, MATRIX_ROWS)]
        return Instance(path, str(header[SERIES_UID].value), kind[2:3] == [VOLUME], size[0] * size[1])
    except Exception:  # pydicom raises many exception types on damaged files; OpenSlide then reports the reason.
        return None
