"""Reading a cohort table: a CSV with a path and a label for every slide, by any of the field's column names."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_attn.errors import ManifestError
from wsi_attn.geometry import Mpp

ALIASES = {
    "path": ("path", "slide_id", "sample_id", "wsi", "slide", "image_path", "filename"),
    "label": ("label", "target"),
    "patient": ("patient", "case_id", "patient_id", "case", "group"),
    "split": ("split",),
    "mpp": ("mpp", "spacing_at_level_0"),
    "regions": ("regions", "annotations", "roi"),
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One slide of a manifest; `patient` is the path where no column names one, `split` empty where none is given.

    `regions` is a GeoJSON file of the boxes and polygons, in level-0 pixels, outside of which nothing is looked at.
    """

    path: Path
    label: str
    patient: str
    split: str
    mpp: Mpp | None
    number: int
    regions: Path | None = None


def read_manifest(path: Path, *, need_label: bool = True) -> list[Row]:
    """Read and check a manifest.

    Parameters
    ----------
    path
        CSV with a header; paths in it are relative to its folder.
    need_label
        Whether every row must have a label.

    Raises
    ------
    ManifestError : missing file, column, label or image, a split that is none, one patient in two splits. The
        message names the file and the row, counted as a spreadsheet does, the header being row 1.
    """
    if not path.is_file():
        raise ManifestError(f"There is no manifest {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = _columns(path, reader.fieldnames or (), need_label=need_label)
            rows = [_row(path, number, record, columns) for number, record in enumerate(reader, 2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"Cannot read {path}: not a CSV in UTF-8 ({error})") from error
    if not rows:
        raise ManifestError(f"{path} has no rows")
    _check_leakage(path, rows)
    return rows


def _columns(path: Path, header: Sequence[str], *, need_label: bool) -> dict[str, str]:
    by_lower = {column.strip().lower(): column for column in reversed(header)}
    columns = {
        name: next((by_lower[alias] for alias in aliases if alias in by_lower), "") for name, aliases in ALIASES.items()
    }
    for name in ("path", "label") if need_label else ("path",):
        if not columns[name]:
            raise ManifestError(
                f"{path} has no column for the {name}: expected one of {', '.join(ALIASES[name])}; "
                f"found {', '.join(header) or 'none'}"
            )
    return {name: column for name, column in columns.items() if column}


def _row(manifest: Path, number: int, record: dict[str, str | None], columns: dict[str, str]) -> Row:
    values = {name: (record[column] or "").strip() for name, column in columns.items()}
    where = f"{manifest}, row {number}"
    for name in ("path", "label"):
        if name in values and not values[name]:
            raise ManifestError(f"{where}: the {name} is empty")
    image = manifest.parent / values["path"]
    if not image.exists():
        raise ManifestError(f"{where}: there is no file {image}")
    split = values.get("split", "").lower()
    if split and split not in SPLITS:
        raise ManifestError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
    return Row(
        path=image,
        label=values.get("label", ""),
        patient=values.get("patient") or values["path"],
        split=split,
        mpp=_mpp(where, values.get("mpp", "")),
        number=number,
        regions=_regions(where, manifest.parent, values.get("regions", "")),
    )


def _regions(where: str, folder: Path, text: str) -> Path | None:
    if text and not (folder / text).is_file():
        raise ManifestError(f"{where}: there is no file {folder / text} of regions")
    return folder / text if text else None


def _mpp(where: str, text: str) -> Mpp | None:
    if not text:
        return None
    try:
        numbers = [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError as error:
        raise ManifestError(f"{where}: mpp {text!r} is not a number") from error
    if len(numbers) not in (1, 2) or not all(0 < number < math.inf for number in numbers):
        raise ManifestError(f"{where}: mpp {text!r} is not one or two positive numbers")
    return Mpp(numbers[0], numbers[-1])


def _check_leakage(path: Path, rows: Sequence[Row]) -> None:
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        for what, name in (("patient", row.patient), ("file", str(row.path.resolve()))):
            first = seen.setdefault((what, name), row)
            before, now = first.split or "train", row.split or "train"  # rows without a split count as training
            if before != now:
                raise ManifestError(
                    f"{path}: {what} {name!r} is in {before} (row {first.number}) and in {now} "
                    f"(row {row.number}); a {what} belongs to one split"
                )
