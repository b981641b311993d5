"""JSON records for the page: a row of the list, and the details of a slide."""

from __future__ import annotations

from wsi_attn import __version__
from wsi_attn.errors import PredictionError
from wsi_attn.json_types import JsonObject
from wsi_attn.paths import printable
from wsi_attn.slide import SlideInfo
from wsi_attn.store.tile_store import TileStore
from wsi_attn.viewer.collection import Entry
from wsi_attn.viewer.overlays import Overlay, load_overlay
from wsi_attn.viewer.pyramid import TileLevel
from wsi_attn.viewer.viewer_slide import ViewerSlide


def line(entry: Entry) -> JsonObject:
    """A row of the list; unknown values are null or empty."""
    record = entry.record
    return {
        "id": entry.key,
        "name": entry.name,
        "pixels": entry.path is not None,
        "label": record.label if record else None,
        "probability": record.probabilities.get(record.label) if record else None,
        "probabilities": record.probabilities if record else {},
        "uncertainty": record.uncertainty if record else {},
    }


def without_pixels(entry: Entry) -> JsonObject:
    """Record of a prediction whose slide was not found: everything except images."""
    return {
        **line(entry),
        "warnings": ["The slide of this prediction was not found; pass its path too.", *_warnings(entry)],
        "regions": [],
        "layers": [],
        "provenance": _of_prediction(entry),
    }


def with_pixels(entry: Entry, slide: ViewerSlide) -> JsonObject:
    """Record of a slide: its pyramid, its prediction if it matches the slide, and the provenance."""
    info = slide.slide.info
    drawn, problem = _drawn(entry, info)
    return {
        **line(entry),
        "version": slide.version,
        "size": list(info.size0),
        "mpp": list(info.mpp) if info.mpp else None,
        "levels": [_level(level) for level in slide.levels],
        "layers": drawn.records if drawn else [],
        "regions": drawn.regions if drawn else [],
        "polygons": bool(entry.polygons),
        "warnings": [*problem, *_warnings(entry)],
        "provenance": [*_of_slide(info, slide), *_of_prediction(entry)],
    }


def _drawn(entry: Entry, info: SlideInfo) -> tuple[Overlay | None, list[str]]:
    if entry.prediction is None:
        return None, []
    if entry.record is None or entry.record.fingerprint != info.fingerprint:
        return None, ["The prediction belongs to another file with this name; its maps and regions are not shown."]
    if entry.record.size != info.size0:
        return None, ["The prediction states another size of the slide and is damaged; its maps are not shown."]
    try:
        return load_overlay(entry.prediction), []
    except PredictionError as error:
        return None, [printable(str(error))]


def _level(level: TileLevel) -> JsonObject:
    columns, rows = level.grid
    return {
        "width": level.frame.size.width,
        "height": level.frame.size.height,
        "downsample_x": level.frame.downsample_x,
        "downsample_y": level.frame.downsample_y,
        "tile_width": level.tile.width,
        "tile_height": level.tile.height,
        "columns": columns,
        "rows": rows,
        "passthrough": level.passthrough,
    }


def _warnings(entry: Entry) -> list[str]:
    if entry.record is None:
        return []
    unreadable = entry.record.unreadable_tiles
    found = [f"{unreadable} tiles could not be read during prediction."] if unreadable else []
    return [*found, *entry.record.warnings]


def _of_slide(info: SlideInfo, slide: ViewerSlide) -> list[list[str]]:
    is_store = isinstance(slide.slide, TileStore)
    lines = [
        ["Store" if is_store else "Slide", printable(info.path.name)],
        ["Size", f"{info.size0.width} × {info.size0.height} px, {len(info.levels)} levels"],
        ["Pixel size", f"{info.mpp.x:g} × {info.mpp.y:g} µm ({info.mpp_source})" if info.mpp else "unknown"],
        ["Format", " · ".join(part for part in (info.vendor, info.compression, f"read by {info.reader}") if part)],
    ]
    if info.objective_power:
        lines.append(["Objective", f"{info.objective_power:g}×"])
    lines.append(["Fingerprint", info.fingerprint[:16]])
    return lines


def _of_prediction(entry: Entry) -> list[list[str]]:
    record = entry.record
    if record is None:
        return [["Viewer", f"wsi-attn {__version__}"]]
    return [
        ["Model", record.model.name],
        ["Weights", record.model.sha256[:16]],
        ["Predicted by", f"wsi-attn {record.software.get('wsi-attn', '?')} in {record.seconds:.1f} s"],
        ["Tissue", f"{record.tissue_fraction:.0%} of the slide"],
        ["Prediction", printable(entry.prediction.name) if entry.prediction else "unknown"],
        ["Viewer", f"wsi-attn {__version__}"],
    ]
