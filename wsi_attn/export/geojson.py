"""Attended regions, cells and tiles as GeoJSON for QuPath (drag and drop) and any GeoJSON reader.

The schema is that of QuPath: a FeatureCollection with one object per region, cell or tile. Features use level-0 pixels
of the whole slide and are shifted to QuPath's origin when they are written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsi_attn import geojson
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.export.source import SCORE, TISSUE, Tiles, strongest
from wsi_attn.geometry import Point
from wsi_attn.heatmaps.colour import lookup_table
from wsi_attn.outputs import files
from wsi_attn.paths import path_to_text
from wsi_attn.store.predictions import AttendedRegion, SlidePrediction
from wsi_attn.tissue.polygons import tissue_to_geojson

ObjectType = Literal["annotation", "detection"]
"""QuPath shows both; annotations can be edited, detections are light enough to be many."""

NAMESPACE = uuid.UUID("6f2d1f9e-8f0a-5d55-9c64-0b6d2b7f3a11")
CLASS_NAME = "Attended"
CLASS_COLOUR = (253, 141, 60)
"""One class and one colour for all regions: QuPath stores a single colour per class name."""


def to_geojson(prediction: SlidePrediction, object_type: ObjectType = "annotation") -> dict[str, Any]:
    """Regions read at high resolution, most attended first.

    Returns
    -------
    A FeatureCollection; empty without regions. Each Feature is a QuPath object: a closed Polygon in level-0
    pixels, `name` "Attention RANK", and as `measurements` its attention weight, its rank from 1, and the slide's
    probability of each class. The class states that a region was attended, not what it contains. An `id` depends only
    on the slide's fingerprint and the rectangle, so the same region has the same id in every file.
    """
    features = [
        _feature(prediction, region, rank, object_type) for rank, region in enumerate(prediction.attention, start=1)
    ]
    return {"type": "FeatureCollection", "features": features}


def write_geojson(prediction: SlidePrediction, path: Path) -> None:
    """Write the features of `to_geojson`, shifted to QuPath's origin, atomically."""
    write_features(path, to_geojson(prediction)["features"], prediction.origin)


def tile_features(
    fingerprint: str, tiles: Tiles, shown: str, count: int, colour: str, object_type: ObjectType = "detection"
) -> Iterator[dict[str, Any]]:
    """The `count` rectangles with the highest values of one column, highest first, as QuPath objects.

    The colour of each shows its value between the minimum and the maximum of all; its measurements are all numbers that
    are not NaN, and its class has the name of the column. Corners are rounded to level-0 pixels.
    """
    values = tiles.columns[shown]
    chosen = strongest(values, count)
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if len(chosen) else (0.0, 1.0)
    table = lookup_table(colour)
    middle = table[128].tolist()
    for rank, index in enumerate(chosen.tolist(), start=1):
        share = (float(values[index]) - low) / (high - low) if high > low else 0.5
        x0, y0 = (round(edge) for edge in tiles.boxes[index, :2])
        x1, y1 = (round(edge) for edge in tiles.boxes[index, :2] + tiles.boxes[index, 2:])
        region = AttendedRegion(x0, y0, x1 - x0, y1 - y0, float(values[index]))
        measured = {name: float(column[index]) for name, column in tiles.columns.items()}
        yield {
            "type": "Feature",
            "id": region_id(f"{fingerprint}:{shown}", region),
            "geometry": {"type": "Polygon", "coordinates": [_ring(region)]},
            "properties": {
                "objectType": object_type,
                "name": f"{shown} {rank}",
                "color": table[round(share * 255)].tolist(),
                "classification": {"name": shown, "color": middle},
                "measurements": {**{name: value for name, value in measured.items() if value == value}, "rank": rank},
            },
        }


def write_features(path: Path, features: Iterable[dict[str, Any]], origin: Point, mark: str = "") -> int:
    """Write a FeatureCollection, one feature per line, atomically.

    Parameters
    ----------
    features
        In level-0 pixels of the whole slide.
    origin
        Corner of the slide's bounds: coordinates are shifted by it, and the file states it.
    mark
        Mark of the export, stored beside the offset.

    Returns
    -------
    The number of features.
    """
    head = json.dumps(geojson.member(origin, **({"made": mark} if mark else {})), ensure_ascii=False)
    count = 0
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "{geojson.MEMBER}": {head}, "features": [')
        for feature in (geojson.shifted(feature, origin) for feature in features):
            file.write(("\n" if count == 0 else ",\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            count += 1
        file.write("\n]}\n")
    return count


def region_id(fingerprint: str, region: AttendedRegion) -> str:
    """UUID of one rectangle of one slide, the same on every machine."""
    return str(uuid.uuid5(NAMESPACE, f"{fingerprint}:{region.x},{region.y},{region.width},{region.height}"))


def _feature(prediction: SlidePrediction, region: AttendedRegion, rank: int, object_type: ObjectType) -> dict[str, Any]:
    probabilities = {f"probability: {name}": value for name, value in prediction.probabilities.items()}
    return {
        "type": "Feature",
        "id": region_id(prediction.fingerprint, region),
        "geometry": {"type": "Polygon", "coordinates": [_ring(region)]},
        "properties": {
            "objectType": object_type,
            "name": f"Attention {rank}",
            "classification": {"name": CLASS_NAME, "color": list(CLASS_COLOUR)},
            "measurements": {"attention": region.weight, "rank": rank, **probabilities},
            "metadata": {"slide": path_to_text(prediction.slide), "label": prediction.label, **_model(prediction)},
        },
    }


def _ring(region: AttendedRegion) -> list[list[int]]:
    """Corners from the top left to the top right and on, the first one repeated; counterclockwise as RFC 7946
    requires.
    """
    x0, y0, x1, y1 = region.x, region.y, region.x + region.width, region.y + region.height
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _model(prediction: SlidePrediction) -> dict[str, str]:
    return {f"model {key}": str(value) for key, value in prediction.model.items()}


def _export(job: Job) -> Entries:
    subject, config = job.subject, job.config
    kind: ObjectType = "annotation" if config.annotations else "detection"
    if subject.prediction and config.top is None and not config.of:
        found = to_geojson(subject.prediction, kind)["features"]
        return {"features": write_features(job.path, found, subject.qupath_origin, subject.mark)}
    of = job.of
    if subject.store and of == TISSUE:
        found = tissue_to_geojson(subject.tissue(), subject.fingerprint, subject.mpp)["features"]
        return {"of": of, "features": write_features(job.path, found, subject.qupath_origin, subject.mark)}
    if subject.store and of.startswith(SCORE) and of in subject.layers:
        tiles, shown = subject.tiles(), of.removeprefix(SCORE)
    else:
        layer = job.layer()
        tiles, shown = subject.cells(layer.name), layer.name
    total = len(tiles.boxes)
    count = total if config.top is None else config.top
    features = tile_features(subject.fingerprint, tiles, shown, count, config.colour, kind)
    written = write_features(job.path, features, subject.qupath_origin, subject.mark)
    return {"of": of, "features": written, "features_left_out": total - written}


GEOJSON = Exporter((".geojson",), ("of", "colour", "top", "annotations"), write=_export)
