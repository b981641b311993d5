"""Attended regions as GeoJSON that QuPath opens by drag and drop, and that any GeoJSON reader understands.

The schema is the one QuPath writes itself: a FeatureCollection in level-0 pixels, one annotation for each region.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from wsi_attn import files
from wsi_attn.store.predictions import AttendedRegion, SlidePrediction

NAMESPACE = uuid.UUID("6f2d1f9e-8f0a-5d55-9c64-0b6d2b7f3a11")
CLASS_NAME = "Attended"
CLASS_COLOUR = (253, 141, 60)
"""One class and one colour for all regions: QuPath keeps a single colour for each class name."""


def to_geojson(prediction: SlidePrediction) -> dict[str, Any]:
    """Regions that the model read at high resolution, most attended first.

    Returns
    -------
    A FeatureCollection; empty without regions. Each Feature is a QuPath annotation: a closed Polygon in level-0
    pixels, `name` "Attention RANK", and as `measurements` its attention weight, its rank from 1, and the slide's
    probability of each class. The class says that a region was attended, not what is in it. An `id` depends on the
    slide's fingerprint and the rectangle only, so the same region has the same id in every file.
    """
    features = [_feature(prediction, region, rank) for rank, region in enumerate(prediction.attention, start=1)]
    return {"type": "FeatureCollection", "features": features}


def write_geojson(prediction: SlidePrediction, path: Path) -> None:
    """Write `to_geojson` whole or not at all."""
    files.write_json(path, to_geojson(prediction))


def region_id(fingerprint: str, region: AttendedRegion) -> str:
    """UUID of one rectangle of one slide, the same on every machine."""
    return str(uuid.uuid5(NAMESPACE, f"{fingerprint}:{region.x},{region.y},{region.width},{region.height}"))


def _feature(prediction: SlidePrediction, region: AttendedRegion, rank: int) -> dict[str, Any]:
    probabilities = {f"probability: {name}": value for name, value in prediction.probabilities.items()}
    return {
        "type": "Feature",
        "id": region_id(prediction.fingerprint, region),
        "geometry": {"type": "Polygon", "coordinates": [_ring(region)]},
        "properties": {
            "objectType": "annotation",
            "name": f"Attention {rank}",
            "classification": {"name": CLASS_NAME, "color": list(CLASS_COLOUR)},
            "measurements": {"attention": region.weight, "rank": rank, **probabilities},
            "metadata": {"slide": prediction.slide, "label": prediction.label, **_model(prediction)},
        },
    }


def _ring(region: AttendedRegion) -> list[list[int]]:
    """Corners from the top left by way of the top right, the first one repeated; counted positive, as RFC 7946 asks."""
    x0, y0, x1, y1 = region.x, region.y, region.x + region.width, region.y + region.height
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _model(prediction: SlidePrediction) -> dict[str, str]:
    return {f"model {key}": str(value) for key, value in prediction.model.items()}
