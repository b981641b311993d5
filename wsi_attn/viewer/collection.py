"""Collection of the viewer: slides, stores, predictions and polygons, merged into one list of entries.

The viewer opens no other files. The id of an entry does not reveal its path and is stable between runs, so links remain
valid.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsi_attn.data.inputs import is_slide_file, is_store, series_below
from wsi_attn.data.sources import find_slide
from wsi_attn.errors import SlideNotFoundError, UsageError, WsiAttnError, as_failure
from wsi_attn.geometry import Mpp
from wsi_attn.paths import path_from_text, printable
from wsi_attn.slides.dicom_series import one_per_series
from wsi_attn.slides.open import slide_exists
from wsi_attn.store.predictions import MAPS_SUFFIX, SUFFIX
from wsi_attn.store.records import BaseRecord, exists, read_record, slide_places

POLYGONS = (".geojson", ".geojson.gz")
SEGMENTATION = ".segmentation.geojson"
"""Suffix of polygon files written by `segment`."""


@dataclass(frozen=True)
class Entry:
    """One row of the list.

    Attributes
    ----------
    key
        The id in addresses.
    path
        The slide or store; None for a prediction whose slide was not found.
    prediction
        The prediction file, if any.
    record
        Content of that file without the maps.
    polygons
        GeoJSON files of the entry.
    """

    key: str
    name: str
    path: Path | None
    prediction: Path | None = None
    record: BaseRecord | None = None
    polygons: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Collection:
    """All entries by id, in the order given, and the inputs that could not be used."""

    entries: dict[str, Entry]
    problems: tuple[WsiAttnError, ...] = ()
    mpps: Mapping[Path, Mpp] = field(default_factory=dict)
    """Pixel sizes of level 0 from a manifest, µm, by the path of the slide."""


def collect(paths: Sequence[Path], mpps: Mapping[Path, Mpp] | None = None) -> Collection:
    """Collect entries from slides, stores, predictions, GeoJSON files, and folders of them (not recursive).

    A prediction is assigned to the given slide that it names, otherwise to a given slide with the same stem, otherwise
    to the slide that it names if that file exists; otherwise it is listed without pixels. Polygons are assigned to the
    slide with the same stem; those given explicitly are also assigned to the only slide, if there is just one. `mpps`
    are pixel sizes of level 0 by path, µm.

    Raises
    ------
    UsageError : there is nothing to show.
    WsiAttnError : nothing can be shown because a path does not exist or a prediction is invalid.
    """
    problems: list[WsiAttnError] = []
    slides, predictions, polygons = _sorted_out(paths, problems)
    entries = {entry.key: entry for entry in (_entry(path) for path in slides)}
    for path in predictions:
        try:
            record = read_record(path)
        except Exception as error:
            problems.append(as_failure(path, error))
            continue
        entry = replace(_slide_of(record, path, entries.values()), prediction=path, record=record)
        entries[entry.key] = entry
    if not entries:
        if problems:
            raise problems[0]
        raise UsageError(f"There is no slide, store or prediction in {', '.join(map(str, paths))}")
    return Collection(_with_polygons(entries, polygons), tuple(problems), mpps or {})


def stem_of(path: Path) -> str:
    """Common file name of a slide, its store, prediction and polygons: the name without kind-specific suffixes."""
    for suffix in (SUFFIX, SEGMENTATION, *POLYGONS, ".ome.tiff", ".ome.tif", ".ome.zarr"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _sorted_out(paths: Sequence[Path], problems: list[WsiAttnError]) -> tuple[list[Path], list[Path], list[Path]]:
    """Slides, predictions and GeoJSON files; what cannot be read is added to `problems`."""
    slides: list[Path] = []
    predictions: list[Path] = []
    polygons: list[Path] = []
    for path in paths:
        if not slide_exists(path):
            problems.append(SlideNotFoundError(f"file not found: {path}"))
            continue
        if path.name.endswith(MAPS_SUFFIX):  # the maps of a prediction stand for it
            path = path.with_name(path.name.removesuffix(MAPS_SUFFIX) + SUFFIX)
        is_folder = path.is_dir() and path.suffix != ".zarr" and not (path / "zarr.json").exists()
        for file in sorted(path.iterdir()) if is_folder else [path]:
            if file.name.endswith(SUFFIX):
                predictions.append(file)
            elif file.name.lower().endswith(POLYGONS):
                if not is_folder:  # those in a folder are found by their stems
                    polygons.append(file)
            elif not is_folder or is_store(file) or is_slide_file(file):
                slides.append(file)
        if is_folder:
            slides += series_below(path)
    return one_per_series(slides), list(dict.fromkeys(predictions)), polygons


def _entry(path: Path) -> Entry:
    return Entry(_key(path), printable(path.name), path)


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def _slide_of(record: BaseRecord, file: Path, entries: Iterable[Entry]) -> Entry:
    named = slide_places(record, file)
    places = {path.resolve() for path in named if exists(path)}
    free = [entry for entry in entries if entry.path is not None and entry.prediction is None]
    for entry in free:
        if entry.path is not None and entry.path.resolve() in places:
            return entry
    for entry in free:
        if entry.path is not None and stem_of(entry.path) == stem_of(path_from_text(record.slide)):
            return entry
    found = find_slide(named, record.fingerprint)
    if found is not None:
        # A second prediction of the same slide is a separate row, identified by its own file.
        return replace(_entry(found), key=_key(file))
    return Entry(_key(file), printable(path_from_text(record.slide).name), None)


def _with_polygons(entries: dict[str, Entry], given: Sequence[Path]) -> dict[str, Entry]:
    only = len(entries) == 1
    found = {}
    for key, entry in entries.items():
        files = {
            path.resolve(): path for path in given if only or stem_of(path) == stem_of(entry.path or Path(entry.name))
        }
        for near in (entry.path, entry.prediction):
            for ending in (POLYGONS[0], SEGMENTATION) if near is not None else ():
                if near is not None and (beside := near.parent / f"{stem_of(near)}{ending}").is_file():
                    files.setdefault(beside.resolve(), beside)
        found[key] = replace(entry, polygons=tuple(files.values()))
    return found
