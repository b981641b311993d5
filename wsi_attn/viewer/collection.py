"""What the viewer was given: slides, stores, predictions and polygons, brought together as one list of entries.

Nothing else is ever opened. An entry is addressed by an id that says nothing of its path and stays the same from run to
run, so that links keep their meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsi_attn.data.inputs import is_slide_file, is_store, series_below
from wsi_attn.errors import PredictionError, SlideNotFoundError, UsageError, WsiAttnError
from wsi_attn.geometry import Mpp
from wsi_attn.slides.dicom_series import one_per_series
from wsi_attn.slides.open import slide_exists
from wsi_attn.store.predictions import SUFFIX, SlidePrediction, read_prediction

POLYGONS = (".geojson",)
SEGMENTATION = ".segmentation.geojson"
"""Ending of the polygons that `segment` writes."""


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes
    ----------
    key
        The id in addresses.
    path
        The slide or store; None for a prediction whose slide was not found.
    prediction
        The prediction's file and its public record, the maps left out; None where there is none.
    fingerprint
        Of the slide that was predicted.
    polygons
        GeoJSON that belongs to it.
    """

    key: str
    name: str
    path: Path | None
    prediction: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    polygons: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Collection:
    """All entries by their ids, in the order given, and what of the input could not be used."""

    entries: dict[str, Entry]
    problems: tuple[WsiAttnError, ...] = ()
    mpps: Mapping[Path, Mpp] = field(default_factory=dict)
    """Pixel sizes of level 0 that a manifest gives, µm, by the path of the slide."""


def collect(paths: Sequence[Path], mpps: Mapping[Path, Mpp] | None = None) -> Collection:
    """Entries for slides, stores, predictions, GeoJSON files, and folders of them (not of folders in them).

    A prediction belongs to the slide that it names, else to a slide given that has its stem, else to the slide that it
    names where that still lies there, else it is listed without pixels. Polygons belong to the slide of their stem,
    those given on the command line also to the only slide there is. `mpps` are pixel sizes of level 0 by path, µm.

    Raises
    ------
    UsageError : there is nothing to show.
    SlideNotFoundError : a path that does not exist.
    """
    slides, predictions, polygons = _sorted_out(paths)
    entries = {entry.key: entry for entry in (_entry(path) for path in slides)}
    problems: list[WsiAttnError] = []
    for path in predictions:
        try:
            prediction = read_prediction(path)
        except PredictionError as error:
            problems.append(error)
            continue
        entry = _with_prediction(_slide_of(prediction, path, entries.values()), prediction, path)
        entries[entry.key] = entry
    if not entries:
        if problems:
            raise problems[0]
        raise UsageError(f"There is no slide, store or prediction in {', '.join(map(str, paths))}")
    return Collection(_with_polygons(entries, polygons), tuple(problems), mpps or {})


def stem_of(path: Path) -> str:
    """File name without what says its kind: what a slide, its store, prediction and polygons have in common."""
    for suffix in (SUFFIX, SEGMENTATION, ".ome.tiff", ".ome.tif", ".ome.zarr"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    slides: list[Path] = []
    predictions: list[Path] = []
    polygons: list[Path] = []
    for path in paths:
        if not slide_exists(path):
            raise SlideNotFoundError(f"There is no file {path}")
        is_folder = path.is_dir() and path.suffix != ".zarr" and not (path / "zarr.json").exists()
        for file in sorted(path.iterdir()) if is_folder else [path]:
            if file.name.endswith(SUFFIX):
                predictions.append(file)
            elif file.suffix.lower() in POLYGONS:
                if not is_folder:  # those of a folder are found by their stems
                    polygons.append(file)
            elif not is_folder or is_store(file) or is_slide_file(file):
                slides.append(file)
        if is_folder:
            slides += series_below(path)
    return one_per_series(slides), list(dict.fromkeys(predictions)), polygons


def _entry(path: Path) -> Entry:
    return Entry(_key(path), path.name, path)


def _key(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]


def _slide_of(prediction: SlidePrediction, file: Path, entries: Iterable[Entry]) -> Entry:
    named = [Path(prediction.slide), file.parent / prediction.slide, file.parent / Path(prediction.slide).name]
    places = {path.resolve() for path in named}
    free = [entry for entry in entries if entry.path is not None and entry.prediction is None]
    for entry in free:
        if entry.path is not None and entry.path.resolve() in places:
            return entry
    for entry in free:
        if entry.path is not None and stem_of(entry.path) == stem_of(Path(prediction.slide)):
            return entry
    for path in named:
        if slide_exists(path):
            # A second prediction of the same slide is a line of its own, addressed by its own file.
            return replace(_entry(path), key=_key(file))
    return Entry(_key(file), Path(prediction.slide).name, None)


def _with_prediction(entry: Entry, prediction: SlidePrediction, path: Path) -> Entry:
    return replace(entry, prediction=path, record=prediction.record(), fingerprint=prediction.fingerprint)


def _with_polygons(entries: dict[str, Entry], given: Sequence[Path]) -> dict[str, Entry]:
    only = len(entries) == 1
    found = {}
    for key, entry in entries.items():
        files = {path.resolve(): path for path in given if only or stem_of(path) == stem_of(Path(entry.name))}
        for near in (entry.path, entry.prediction):
            for ending in (POLYGONS[0], SEGMENTATION) if near is not None else ():
                if near is not None and (beside := near.parent / f"{stem_of(near)}{ending}").is_file():
                    files.setdefault(beside.resolve(), beside)
        found[key] = replace(entry, polygons=tuple(files.values()))
    return found
