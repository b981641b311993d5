"""Overlays of a slide: layers of a prediction as images, attended regions, tissue outline, and polygons of a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_attn.errors import PredictionError
from wsi_attn.export.geojson import CLASS_NAME
from wsi_attn.geojson import offset_of, read_document
from wsi_attn.geometry import ORIGIN, Frame, Point
from wsi_attn.heatmaps.colour import colourise
from wsi_attn.heatmaps.layer import ATTENTION, Layer, display_values
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.store.predictions import SlidePrediction, read_prediction

FAINTEST = 0.2
"""Opacity of the lowest value relative to the highest, as in `heatmaps.picture`: low values hide less."""

KEPT = 3
"""Number of predictions held in memory; the maps of a large slide take about ten megabytes."""

MOST_REGIONS = 1000
"""Maximum number of regions drawn, the most attended ones."""

COLOUR = "viridis"
BAR_STEPS = 32
POLYGON_COLOUR = (31, 119, 180)

OUTLINE_TOLERANCE = 0.75
"""Tolerance of outline simplification in mask pixels."""


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
        "bar": colourise(ramp, _opacity(ramp), COLOUR)[0].tolist(),
        "cell_width": layer.frame.downsample_x,
        "cell_height": layer.frame.downsample_y,
        "columns": layer.values.shape[1],
        "rows": layer.values.shape[0],
    }


def layer_png(layer: Layer) -> bytes:
    """RGBA image with one pixel per cell; transparent for invalid cells."""
    values = display_values(layer).values
    buffer = io.BytesIO()
    Image.fromarray(colourise(values, _opacity(values), COLOUR)).save(buffer, "PNG")
    return buffer.getvalue()


def outline(mask: NDArray[np.bool_], frame: Frame) -> list[list[list[float]]]:
    """Outlines of True areas, including holes, in level-0 pixels, each [[x, y], ...], not closed."""
    # Upsampled by 2: contours run through pixel centres, which are then a quarter of a pixel from the edge, not half.
    large = np.pad(mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1), 1)
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, OUTLINE_TOLERANCE * 2, closed=True)[:, 0].astype(np.float64)
        if len(simple) > 2:
            corners = (simple - 0.5) / 2 * (frame.downsample_x, frame.downsample_y)
            rings.append(np.round(corners, 1).tolist())
    return rings


def polygons_of(path: Path, origin: Point = ORIGIN) -> list[dict[str, Any]]:
    """Polygons of a GeoJSON file in level-0 pixels, as `rings`, `name` and `colour`.

    Attended regions are excluded, since the prediction provides them. `origin` is the corner of the slide's bounds, the
    origin of the coordinates in the file.

    Raises
    ------
    PredictionError : the file is unreadable or not GeoJSON.
    """
    try:
        data = read_document(path)
        offset = offset_of(data, origin)
        features = data["features"] if isinstance(data, dict) and "features" in data else data
        return [polygon for feature in features for polygon in _feature(feature, offset)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PredictionError(f"Cannot read {path}: not GeoJSON with polygons ({error})") from error


def _feature(feature: dict[str, Any], offset: tuple[float, float]) -> Iterator[dict[str, Any]]:
    properties = feature.get("properties") or {}
    kind = properties.get("classification") or {}
    geometry = feature.get("geometry") or {}
    if kind.get("name") == CLASS_NAME:
        return
    coordinates = geometry.get("coordinates", [])
    parts = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(str(geometry.get("type")), [])
    red, green, blue = (int(part) & 255 for part in kind.get("color") or properties.get("color") or POLYGON_COLOUR)
    for rings in parts:
        yield {
            "rings": [[[x + offset[0], y + offset[1]] for x, y, *_ in ring] for ring in rings],
            "name": str(kind.get("name") or properties.get("name") or ""),
            "colour": [red, green, blue],
        }


def _opacity(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return (FAINTEST + (1 - FAINTEST) * values).astype(np.float32)
