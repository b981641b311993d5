"""Exports as outputs: most carry a mark of their input and settings, others are compared as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from wsi_attn import __version__
from wsi_attn.export.config import ExportConfig, HeatmapConfig
from wsi_attn.export.exporter import Exporter
from wsi_attn.export.source import ExportSource
from wsi_attn.json_types import JsonObject
from wsi_attn.outputs.mark import Mark, digest
from wsi_attn.outputs.policy import Found, Output, complete, other
from wsi_attn.store.predictions import SlidePrediction


def mark_of(subject: ExportSource, to: str, config: ExportConfig | HeatmapConfig) -> Mark:
    """The mark of one input in one format; `workers` of `config` is ignored."""
    options = {name: value for name, value in asdict(config).items() if name != "workers"}
    words = {"format": to, "software": __version__, "fingerprint": subject.fingerprint, "grid": subject.grid, **options}
    texts = [json.dumps(words, sort_keys=True)]
    if subject.prediction:
        texts.append(json.dumps(_identity(subject.prediction), sort_keys=True))
    return Mark(f"wsi-attn-export-{digest(texts, _files_of(subject))}")


def export_output(mark: Mark, path: Path, exporter: Exporter) -> Output[Path]:
    """An export as an output. Folders are replaced only by folders of the same kind."""
    beside = exporter.beside(path)

    def inspect() -> Found[Path]:
        if mark.is_in(path) and all(place.is_dir() for place in beside):
            return complete(path)
        return other("exists and belongs to another input or other settings")

    def foreign(place: Path) -> str:
        if place.is_dir() and not (exporter.zarr and is_zarr(place)):
            return "is a folder that wsi-attn did not export"
        return "is a store" if exporter.zarr and (place / "labels").exists() else ""

    return Output(path, inspect, beside, protected={path: foreign})


def compared_output(data: bytes, path: Path) -> Output[Path]:
    """An export without a mark as an output, which is complete if it consists of these bytes."""

    def inspect() -> Found[Path]:
        same = path.is_file() and path.read_bytes() == data
        return complete(path) if same else other("exists and is not this export")

    def foreign(place: Path) -> str:
        return "is a folder that wsi-attn did not export" if place.is_dir() else ""

    return Output(path, inspect, protected={path: foreign})


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr group."""
    return (path / "zarr.json").exists()


def _identity(prediction: SlidePrediction) -> JsonObject:
    """Values that identify a prediction, equal in memory and after reading it from its file.

    Numbers are rounded, since the last digits on a GPU differ between runs.
    """
    return {
        "slide": Path(prediction.slide).name,
        "label": prediction.label,
        "model": prediction.model,
        "software": prediction.software,
        "mpp": prediction.mpp,
        "probabilities": {name: round(value, 3) for name, value in prediction.probabilities.items()},
        "uncertainty": {name: round(value, 3) for name, value in prediction.uncertainty.items()},
        "regions": [[region.x, region.y, region.width, region.height] for region in prediction.attention],
        "maps": sorted(prediction.maps),
    }


def _files_of(subject: ExportSource) -> Iterator[Path]:
    """The files of a store that an export depends on, besides the slide's pixels."""
    if subject.store:
        yield subject.path / "zarr.json"
        yield from sorted(file for file in (subject.path / "tiles" / subject.grid).rglob("*") if file.is_file())
