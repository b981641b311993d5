"""Attended regions, cells and tiles as GeoJSON for QuPath (drag and drop) and any GeoJSON reader.

The schema is that of QuPath: a FeatureCollection with one object per region, cell or tile. Features use level-0 pixels
of the whole slide; `annotations.geojson` writes them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
from shapely import Polygon

from wsi_attn.annotations.geojson import Feature, ObjectType, PathClass, feature, write_features
from wsi_attn.annotations.tissue import tissue_features
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.export.source import SCORE, TISSUE, Tiles, strongest
from wsi_attn.heatmaps.colour import lookup_table
from wsi_attn.json_types import JsonObject
from wsi_attn.paths import path_to_text
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.records import AttendedRegion

NAMESPACE = uuid.UUID("6f2d1f9e-8f0a-5d55-9c64-0b6d2b7f3a11")
ATTENDED = PathClass("Attended", (253, 141, 60))
"""One class and one colour for all regions."""


def attended_features(prediction: SlidePrediction, kind: ObjectType = "annotation") -> list[Feature]:
    """Regions read at high resolution, most attended first, as QuPath objects.

    Each is a rectangle with the `name` "Attention RANK", and as `measurements` its attention weight, its rank from 1,
    and the slide's probability of each class. The class states that a region was attended, not what it contains. An
    `id` depends only on the slide's fingerprint and the rectangle, so the same region has the same id in every file.
    """
    probabilities = {f"probability: {name}": value for name, value in prediction.probabilities.items()}
    model = {f"model {key}": str(value) for key, value in prediction.model.items()}
    metadata = {"slide": path_to_text(prediction.slide), "label": prediction.label, **model}
    return [
        feature(
            [_rectangle(region)],
            region_id(prediction.fingerprint, region),
            kind,
            ATTENDED,
            {"attention": region.weight, "rank": rank, **probabilities},
            name=f"Attention {rank}",
            metadata=metadata,
        )
        for rank, region in enumerate(prediction.attention, start=1)
    ]


def tile_features(
    fingerprint: str, tiles: Tiles, shown: str, count: int, colour: str, kind: ObjectType = "detection"
) -> Iterator[Feature]:
    """The `count` rectangles with the highest values of one column, highest first, as QuPath objects.

    The colour of each shows its value between the minimum and the maximum of all; its measurements are all numbers that
    are not NaN, and its class has the name of the column. Corners are rounded to level-0 pixels.
    """
    values = tiles.columns[shown]
    chosen = strongest(values, count)
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if len(chosen) else (0.0, 1.0)
    table = [(red, green, blue) for red, green, blue in lookup_table(colour).tolist()]
    for rank, index in enumerate(chosen.tolist(), start=1):
        share = (float(values[index]) - low) / (high - low) if high > low else 0.5
        x0, y0 = (round(edge) for edge in tiles.boxes[index, :2])
        x1, y1 = (round(edge) for edge in tiles.boxes[index, :2] + tiles.boxes[index, 2:])
        region = AttendedRegion(x0, y0, x1 - x0, y1 - y0, float(values[index]))
        measured = {name: float(column[index]) for name, column in tiles.columns.items()}
        yield feature(
            [_rectangle(region)],
            region_id(f"{fingerprint}:{shown}", region),
            kind,
            PathClass(shown, table[128]),
            {**{name: value for name, value in measured.items() if value == value}, "rank": rank},
            name=f"{shown} {rank}",
            colour=table[round(share * 255)],
        )


def region_id(fingerprint: str, region: AttendedRegion) -> uuid.UUID:
    """UUID of one rectangle of one slide, the same on every machine."""
    return uuid.uuid5(NAMESPACE, f"{fingerprint}:{region.x},{region.y},{region.width},{region.height}")


def _rectangle(region: AttendedRegion) -> Polygon:
    """Corners from the top left to the top right and on; counterclockwise as RFC 7946 requires."""
    x0, y0, x1, y1 = region.x, region.y, region.x + region.width, region.y + region.height
    return Polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _export(job: Job) -> Entries:
    subject, config = job.subject, job.config
    made: JsonObject = {"made": subject.mark} if subject.mark else {}
    kind: ObjectType = "annotation" if config.annotations else "detection"
    if subject.prediction and config.top is None and not config.of:
        found = attended_features(subject.prediction, kind)
        return {"features": write_features(job.path, found, subject.qupath_origin, made)}
    of = job.of
    if subject.store and of == TISSUE:
        found = tissue_features(subject.tissue(), subject.fingerprint, subject.mpp)
        return {"of": of, "features": write_features(job.path, found, subject.qupath_origin, made)}
    if subject.store and of.startswith(SCORE) and of in subject.layers:
        tiles, shown = subject.tiles(), of.removeprefix(SCORE)
    else:
        layer = job.layer()
        tiles, shown = subject.cells(layer.name), layer.name
    total = len(tiles.boxes)
    count = total if config.top is None else config.top
    features = tile_features(subject.fingerprint, tiles, shown, count, config.colour, kind)
    written = write_features(job.path, features, subject.qupath_origin, made)
    return {"of": of, "features": written, "features_left_out": total - written}


GEOJSON = Exporter((".geojson",), ("of", "colour", "top", "annotations"), write=_export)
