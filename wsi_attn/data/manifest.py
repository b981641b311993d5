"""Manifests: CSV files with a path and a label per slide, with common alternative column names."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsi_attn.annotations.boxes import parse_boxes
from wsi_attn.errors import ManifestError
from wsi_attn.geometry import Mpp
from wsi_attn.slides.dicom_series import SeriesIndex
from wsi_attn.slides.open import slide_exists
from wsi_attn.tissue.settings import GEOJSON_SUFFIXES

ALIASES = {
    "path": ("path", "slide_id", "sample_id", "wsi", "slide", "image_path", "filename"),
    "label": ("label", "target"),
    "patient": ("patient", "case_id", "patient_id", "case", "group"),
    "split": ("split",),
    "mpp": ("mpp", "spacing_at_level_0"),
    "regions": ("regions", "annotations", "roi"),
    "boxes": ("boxes",),
    "mask": ("mask", "mask_path"),
}
BOX_FILES = (".xml", *GEOJSON_SUFFIXES)
"""Suffixes of box files; any other text contains the boxes themselves."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One row of a manifest; `patient` is the path if there is no patient column, `split` is empty if not given.

    Attributes
    ----------
    path
        The slide; the first image of a field of several.
    regions
        GeoJSON file of boxes and polygons in level-0 pixels; everything outside them is ignored.
    boxes
        Location of the finding: `x1 y1 x2 y2` in level-0 pixels, several separated by `;`, or the path of a box file
        (see `annotations.regions`); empty if not given.
    mask
        Location of the finding as an image, nonzero inside.
    paths
        All images of the row: only `path`, or the images of a field.
    cells
        Cells of further columns by their names in lower case, for tasks that need others: a time, a file of points.
    """

    path: Path
    label: str
    patient: str
    split: str
    mpp: Mpp | None
    number: int
    regions: Path | None = None
    boxes: str = ""
    mask: Path | None = None
    paths: tuple[Path, ...] = ()
    cells: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", self.paths or (self.path,))


def read_manifest(path: Path, *, need_label: bool = True) -> list[Row]:
    """Read and validate a manifest.

    Parameters
    ----------
    path
        CSV with a header; paths in it are relative to its folder.
    need_label
        Whether every row must have a label.

    Raises
    ------
    ManifestError : missing file, column, label or image; invalid split or boxes; a patient in two splits; an image
        with two labels; a repeated column. The message names the file and the row as a spreadsheet counts it, with
        the header as row 1.
    """
    rows = [_row(path, number, values, need_label=need_label) for number, values in _read(path, need_label=need_label)]
    files = _files_of(rows)
    _check_leakage(path, rows, files)
    _check_labels(path, rows, files)
    return rows


def read_slides(path: Path) -> list[Row | ManifestError]:
    """Read the slides and pixel sizes of a manifest; other columns are ignored.

    Returns
    -------
    For each row its slide, or the error that makes it unusable, so that it does not stop the others.

    Raises
    ------
    ManifestError : the file is missing, is not a UTF-8 CSV file, has no path column or no rows, or a row has more cells
        than the header.
    """
    rows: list[Row | ManifestError] = []
    for number, values in _read(path, need_label=False):
        try:
            used = {name: value for name, value in values.items() if name in ("path", "mpp")}
            rows.append(_row(path, number, used, need_label=False))
        except ManifestError as error:
            rows.append(error)
    return rows


def _read(path: Path, *, need_label: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row (the header is 1) and its cells by the names in `ALIASES`, others by their own."""
    if not path.is_file():
        raise ManifestError(f"no manifest at {path}")
    number = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)  # A cut-off quoted cell is an error.
            header = next(reader, [])
            columns = _columns(path, header, need_label=need_label)
            for place, found in enumerate(reader, 2):
                cells = [cell.strip() for cell in found]
                if not any(cells):
                    continue  # Spreadsheets append rows of empty cells.
                if any(cells[len(header) :]):
                    raise ManifestError(
                        f"{path}, row {place}: {len(cells)} cells, but the header has {len(header)}; write text that "
                        "contains a comma in quotes, and numbers with a decimal point"
                    )
                record = dict(zip(header, cells, strict=False))
                number = place
                yield number, {name: record.get(column, "") for name, column in columns.items()}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"Cannot read {path}: not a UTF-8 CSV file ({error})") from error
    if number == 1:
        raise ManifestError(f"{path} has no rows")


def _columns(path: Path, header: Sequence[str], *, need_label: bool) -> dict[str, str]:
    repeated = [name for name, count in Counter(column.strip().lower() for column in header).items() if count > 1]
    for name in repeated:
        if any(name in aliases for aliases in ALIASES.values()):
            raise ManifestError(f"{path}, row 1: the column {name!r} occurs twice; keep one")
    by_lower = {column.strip().lower(): column for column in reversed(header)}
    columns = {
        name: next((by_lower[alias] for alias in aliases if alias in by_lower), "") for name, aliases in ALIASES.items()
    }
    for name in ("path", "label") if need_label else ("path",):
        if not columns[name]:
            if len(header) == 1 and any(separator in header[0] for separator in ";\t"):
                raise ManifestError(f"{path} is not separated by commas; save it as comma-separated CSV")
            raise ManifestError(
                f"{path} has no column for the {name}: expected one of {', '.join(ALIASES[name])}; "
                f"found {', '.join(header) or 'none'}"
            )
    known = {name: column for name, column in columns.items() if column}
    used = set(known.values())
    return {name: column for name, column in by_lower.items() if column not in used} | known


def _row(manifest: Path, number: int, values: Mapping[str, str], *, need_label: bool) -> Row:
    where = f"{manifest}, row {number}"
    for name in ("path", "label") if need_label else ("path",):
        if name in values and not values[name]:
            raise ManifestError(f"{where}: the {name} is empty")
    images = _images(where, manifest.parent, values["path"])
    split = values.get("split", "").lower()
    if split and split not in SPLITS:
        raise ManifestError(f"{where}: split {split!r} is not one of {', '.join(SPLITS)}")
    return Row(
        path=images[0],
        label=values.get("label", ""),
        patient=values.get("patient") or values["path"],
        split=split,
        mpp=_mpp(where, values.get("mpp", "")),
        number=number,
        regions=_file(where, manifest.parent, values.get("regions", ""), "regions"),
        boxes=_boxes(where, manifest.parent, values.get("boxes", "")),
        mask=_file(where, manifest.parent, values.get("mask", ""), "the mask"),
        paths=images,
        cells={name: cell for name, cell in values.items() if name not in ALIASES},
    )


def _images(where: str, folder: Path, text: str) -> tuple[Path, ...]:
    """Return the image of a row, or several separated by `;`."""
    if slide_exists(folder / text):  # A file name may contain a semicolon.
        return (folder / text,)
    images = tuple(folder / part.strip() for part in text.split(";"))
    for image in images:
        if image == folder:
            raise ManifestError(f"{where}: {text!r} contains an empty file name")
        if not slide_exists(image):
            raise ManifestError(f"{where}: file not found: {image}")
        if image.is_dir() and len(images) > 1:
            raise ManifestError(
                f"{where}: {image} is a folder or store, but a row with several images accepts only image files; use "
                "a separate row for the store"
            )
    if len(set(images)) < len(images):
        raise ManifestError(f"{where}: {text!r} contains an image twice")
    return images


def _file(where: str, folder: Path, text: str, what: str) -> Path | None:
    if text and not (folder / text).is_file():
        raise ManifestError(f"{where}: {what} file not found: {folder / text}")
    return folder / text if text else None


def _boxes(where: str, folder: Path, text: str) -> str:
    """Validate the text of the column; a file name becomes a path."""
    if text.lower().endswith(BOX_FILES):
        return str(_file(where, folder, text, "boxes"))
    parse_boxes(where, text)
    return text


def _mpp(where: str, text: str) -> Mpp | None:
    if not text:
        return None
    try:
        mpp = Mpp.parse(text)
    except ValueError as error:
        raise ManifestError(f"{where}, column mpp: {error}") from error
    return mpp if min(mpp) > 0 else None  # Tables often write 0 for unknown values.


def _files_of(rows: Sequence[Row]) -> dict[Path, Path]:
    """The file of each image that is the same for all its names: links, and the files of a DICOM series."""
    index = SeriesIndex()
    images = dict.fromkeys(image for row in rows for image in row.paths)
    return {image: (series.main if (series := index.of(image)) else image).resolve() for image in images}


def _check_labels(path: Path, rows: Sequence[Row], files: Mapping[Path, Path]) -> None:
    """Refuse an image, or a region of it, with two labels."""
    seen: dict[tuple[tuple[Path, ...], Path | None], Row] = {}
    for row in rows:
        first = seen.setdefault((tuple(files[image] for image in row.paths), row.regions), row)
        if first.label != row.label:
            raise ManifestError(
                f"{path}, row {row.number}, column label: {row.path.name} is {row.label!r}, and {first.label!r} in row "
                f"{first.number}; an image has one label"
            )


def _check_leakage(path: Path, rows: Sequence[Row], files: Mapping[Path, Path]) -> None:
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        own = [("file", str(files[image])) for image in row.paths]
        for what, name in [("patient", row.patient), *own]:
            first = seen.setdefault((what, name), row)
            # Rows without a split belong to the training set.
            before, now = first.split or "train", row.split or "train"
            if before != now:
                raise ManifestError(
                    f"{path}: {what} {name!r} is in {before} (row {first.number}) and in {now} "
                    f"(row {row.number}); a {what} belongs to one split"
                )


def path_in(manifest: Path, row: Row) -> str:
    """Return the path of a row as in a manifest: relative to its folder if inside it, `;` between several."""
    folder = manifest.parent
    inside = (path.relative_to(folder) if path.is_relative_to(folder) else path for path in row.paths)
    return ";".join(path.as_posix() for path in inside)
