"""Overlays of a slide: layers of a prediction as images, attended regions, tissue outline, and polygons of a file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from wsi_attn.annotations.geojson import positions, read_annotations
from wsi_attn.annotations.polygons import rings_of
from wsi_attn.annotations.tissue import tissue_polygons
from wsi_attn.errors import PredictionError
from wsi_attn.export.geojson import ATTENDED
from wsi_attn.geometry import ORIGIN, Point
from wsi_attn.heatmaps.colour import colourise
from wsi_attn.heatmaps.layer import ATTENTION, Layer, display_values
from wsi_attn.heatmaps.picture import opacity
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.store.predictions import SlidePrediction, read_prediction
from wsi_attn.tissue.mask import TissueMask

KEPT = 3
"""Number of predictions held in memory; the maps of a large slide take about ten megabytes."""

MOST_REGIONS = 1000
"""Maximum number of regions drawn, the most attended ones."""

COLOUR = "viridis"
BAR_STEPS = 32
POLYGON_COLOUR = (31, 119, 180)

OUTLINE_TOLERANCE = 0.75
"""Tolerance of outline simplification in mask pixels."""


class PolygonRecord(TypedDict):
    """A polygon for the page: closed rings, exterior first."""

    rings: list[list[list[float]]]
    name: str
    colour: list[int]


@dataclass(frozen=True)
class Overlay:
    """Overlays of a prediction: its `layers`, their descriptions for the page, and the attended regions."""

    layers: tuple[Layer, ...]
    records: tuple[Json, ...]
    regions: tuple[Json, ...]


def load_overlay(path: Path) -> Overlay:
    """Load the overlays of a prediction file; the last few are cached, since a large one takes a second to read.

    Raises
    ------
    PredictionError : the file is unreadable.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise PredictionError(f"Cannot read {path}: {error.strerror}") from error
    return _drawn_from(path, changed)


@lru_cache(maxsize=KEPT)
def _drawn_from(path: Path, _changed: int) -> Overlay:
    prediction = read_prediction(path)
    layers = _layers_of(prediction)
    regions = tuple(vars(region) for region in prediction.attention[:MOST_REGIONS])
    return Overlay(layers, tuple(map(_layer_record, layers)), regions)


def _layers_of(prediction: SlidePrediction) -> tuple[Layer, ...]:
    """The attention map and all other maps of the model."""
    attention = prediction.attention_map
    further = (Layer(name, value.frame, value.values) for name, value in prediction.maps.items())
    return Layer(ATTENTION, attention.frame, attention.values), *further


def _layer_record(layer: Layer) -> JsonObject:
    """Description of a layer for the page: title, ticks, colours of its bar, and its frame."""
    shown = display_values(layer)
    ramp = np.linspace(0, 1, BAR_STEPS, dtype=np.float32)[None]
    return {
        "title": shown.title,
        "subtitle": shown.subtitle,
        "ticks": list(shown.ticks),
        "bar": colourise(ramp, opacity(ramp), COLOUR)[0].tolist(),
        "cell_width": layer.frame.downsample_x,
        "cell_height": layer.frame.downsample_y,
        "columns": layer.values.shape[1],
        "rows": layer.values.shape[0],
    }


def layer_png(layer: Layer) -> bytes:
    """RGBA image with one pixel per cell; transparent for invalid cells."""
    values = display_values(layer).values
    buffer = io.BytesIO()
    Image.fromarray(colourise(values, opacity(values), COLOUR)).save(buffer, "PNG")
    return buffer.getvalue()


def outline(mask: TissueMask) -> list[list[list[float]]]:
    """Outlines of tissue, including holes, in level-0 pixels, each [[x, y], ...], not closed."""
    tolerance = OUTLINE_TOLERANCE * max(mask.frame.downsample_x, mask.frame.downsample_y)
    polygons = tissue_polygons(mask, tolerance)
    return [np.round(ring, 1).tolist() for polygon in polygons for ring in rings_of(polygon)]


def polygons_of(path: Path, origin: Point = ORIGIN) -> list[PolygonRecord]:
    """Polygons of a GeoJSON file in level-0 pixels, as the page draws them.

    Attended regions are excluded, since the prediction provides them. `origin` is the corner of the slide's bounds, the
    origin of the coordinates in the file.

    Raises
    ------
    TissueError : the file is unreadable or not GeoJSON.
    """
    return [
        {
            "rings": positions(polygon),
            "name": each.class_name or each.name,
            "colour": list(each.colour or POLYGON_COLOUR),
        }
        for each in read_annotations(path, origin)
        if each.class_name != ATTENDED.name
        for polygon in each.polygons
    ]
