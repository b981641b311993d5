"""`export_subject`: export one input to one format, and its output path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from wsi_attn.errors import ExportError, UsageError
from wsi_attn.export.config import PNG_SIDE, ExportConfig
from wsi_attn.export.dzi import write_dzi
from wsi_attn.export.finished import csv_output, export_output, is_zarr, mark_of
from wsi_attn.export.geojson import tile_features, to_geojson, write_features
from wsi_attn.export.html import MOST_PATCHES, SLIDE_SIDE, write_html
from wsi_attn.export.ome_tiff import write_picture, write_values
from wsi_attn.export.ome_zarr import write_ome_zarr
from wsi_attn.export.pyramid import Colours, Painter
from wsi_attn.export.source import NO_LAYER, SCORE, TISSUE, ExportSource
from wsi_attn.export.table import csv_bytes, write_parquet
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.layer import Layer
from wsi_attn.heatmaps.picture import colours_alone, draw_layer, png_bytes
from wsi_attn.outputs import files, names
from wsi_attn.outputs.policy import State, claim
from wsi_attn.slide import Progress, no_progress
from wsi_attn.slides.view import read_view
from wsi_attn.tissue.polygons import tissue_to_geojson

Format = Literal["png", "geojson", "ome-tiff", "ome-zarr", "csv", "parquet", "dzi", "html"]

SUFFIXES: dict[Format, str] = {
    "png": ".png",
    "geojson": ".geojson",
    "ome-tiff": ".ome.tiff",
    "ome-zarr": ".zarr",
    "csv": ".csv",
    "parquet": ".parquet",
    "dzi": ".dzi",
    "html": ".html",
}

NAMED_BY_LAYER: tuple[Format, ...] = ("png", "ome-tiff", "ome-zarr")
"""Formats with one quantity, whose name is then part of the file name."""

OF_PIXELS: tuple[Format, ...] = ("ome-tiff", "dzi")
"""Formats that show a store or slide without colours unless a quantity is selected."""

TIFF_SIDE = 16_384
"""Longer side in pixels of an OME-TIFF with colours: a heatmap shows no more detail beyond it."""

PATCHES = 12


def target_of(subject: ExportSource, to: Format, output: Path, config: ExportConfig) -> Path:
    """Output path: `output` itself if it has the suffix of the format, otherwise a file in it named after the subject.

    `STEM.QUANTITY.SUFFIX` for formats with one quantity, otherwise `STEM.SUFFIX`; colons become hyphens.
    """
    endings = {"ome-tiff": (".ome.tiff", ".ome.tif", ".tiff", ".tif")}.get(to, (SUFFIXES[to],))
    if output.name.endswith(endings) and not (to == "ome-zarr" and output.is_dir() and not is_zarr(output)):
        return output
    if output.suffix.lower() in names.FILE_SUFFIXES and not output.exists():
        raise UsageError(f"--output {output}: files of --to {to} end with {endings[0]}; rename it or name a folder")
    of = _of(subject, to, config)
    name = f".{of.replace(':', '-')}" if to in NAMED_BY_LAYER and of != NO_LAYER else ""
    return output / f"{subject.stem}{name}{SUFFIXES[to]}"


def export_subject(
    subject: ExportSource,
    to: Format,
    path: Path,
    config: ExportConfig,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Export one input to one format.

    Returns
    -------
    `input`, `slide`, `format`, `output`, `state` ("written", or "skipped" if the same output exists), and
    format-specific entries: `of`, `downsample`, `rows`, `features`, `features_left_out`, `unreadable_tiles`.

    Raises
    ------
    OutputExistsError : the output exists, is something else, and `overwrite` is not set.
    UnknownNameError : there is no such quantity.
    PredictionError, SlideError : the slide is missing, is a different one, or is unreadable.
    ExportError : there is nothing to export in this format.
    """
    record = {"input": str(subject.path), "slide": str(subject.slide), "format": to, "output": str(path)}
    if path.resolve() in (subject.slide.resolve(), subject.path.resolve()):
        raise UsageError(f"{path} is the input; choose another --output")
    if to == "csv":
        progress(0, 1, "writing")
        return record | _csv(subject, path, overwrite=overwrite)
    mark = mark_of(subject, to, config)
    with claim(export_output(mark, path, to), overwrite=overwrite) as found:
        if found.state is State.COMPLETE:
            return {**record, "state": "skipped"}
        progress(0, 1, "writing")
        return {**record, "state": "written", **_write(replace(subject, mark=mark.text), to, path, config, progress)}


def _write(subject: ExportSource, to: Format, path: Path, config: ExportConfig, progress: Progress) -> dict[str, Any]:
    """Write one export; return the entries of its format."""
    more: dict[str, Any]
    if to == "parquet":
        _require_values(subject, to)
        more = {"rows": write_parquet(subject, path)}
    elif to == "geojson":
        more = _geojson(subject, path, config)
    elif to == "ome-zarr":
        layer = _layer(subject, to, config)
        write_ome_zarr(path, layer, subject.mpp, subject.origin)
        more = {"of": layer.name, "downsample": [layer.frame.downsample_x, layer.frame.downsample_y]}
    elif to == "html":
        more = _html(subject, path, config, progress)
    elif to == "png":
        more = _png(subject, path, config, progress)
    else:
        more = _pyramid(subject, to, path, config, progress)
    return more


def _of(subject: ExportSource, to: Format, config: ExportConfig) -> str:
    """Name of the quantity shown by a format with one quantity."""
    if len(config.of) > 1:
        raise UsageError(f"{to} contains one quantity, but --of lists {len(config.of)}; html supports several")
    if config.of:
        return config.of[0]
    if not subject.layers:
        return NO_LAYER
    return NO_LAYER if to in OF_PIXELS and subject.prediction is None and not config.values else subject.layers[0]


def _layer(subject: ExportSource, to: Format, config: ExportConfig) -> Layer:
    """Raster of the quantity shown by a format with one quantity."""
    of = _of(subject, to, config)
    if of == NO_LAYER:
        raise ExportError(
            f"{to} shows a quantity, but {subject.path} has none to show; use ome-tiff, dzi or html for the slide alone"
        )
    return subject.layer(of)


def _frame(subject: ExportSource, config: ExportConfig, side: int | None, least: float = 1.0) -> Frame:
    """Frame of images: as requested, otherwise `side` pixels along the longer side, with a downsample of at least
    `least`.
    """
    size = config.size or side
    downsample = config.downsample or max(least, max(subject.size0) / size if size else 1.0)
    return Frame.covering(subject.size0, downsample, downsample)


def _csv(subject: ExportSource, path: Path, *, overwrite: bool) -> dict[str, Any]:
    _require_values(subject, "csv")
    rows, data = csv_bytes(subject)
    with claim(csv_output(data, path), overwrite=overwrite) as found:
        if found.state is not State.COMPLETE:
            files.write_bytes(path, data)
        return {"state": "skipped" if found.state is State.COMPLETE else "written", "rows": rows}


def _require_values(subject: ExportSource, to: Format) -> None:
    if not subject.layers:
        raise ExportError(f"{subject.path} has no values; {to} needs a prediction or a store")


def _geojson(subject: ExportSource, path: Path, config: ExportConfig) -> dict[str, Any]:
    kind: Literal["annotation", "detection"] = "annotation" if config.annotations else "detection"
    if subject.prediction and config.top is None and not config.of:
        found = to_geojson(subject.prediction, kind)["features"]
        return {"features": write_features(path, found, subject.qupath_origin, subject.mark)}
    of = _of(subject, "geojson", config)
    if subject.store and of == TISSUE:
        found = tissue_to_geojson(subject.tissue(), subject.fingerprint, subject.mpp)["features"]
        return {"of": of, "features": write_features(path, found, subject.qupath_origin, subject.mark)}
    if subject.store and of.startswith(SCORE) and of in subject.layers:
        tiles, shown = subject.tiles(), of.removeprefix(SCORE)
    else:
        layer = _layer(subject, "geojson", config)
        tiles, shown = subject.cells(layer.name), layer.name
    total = len(tiles.boxes)
    count = total if config.top is None else config.top
    features = tile_features(subject.fingerprint, tiles, shown, count, config.colour, kind)
    written = write_features(path, features, subject.qupath_origin, subject.mark)
    return {"of": of, "features": written, "features_left_out": total - written}


def _html(subject: ExportSource, path: Path, config: ExportConfig, progress: Progress) -> dict[str, Any]:
    names = [name for name in (config.of or subject.layers) if name != NO_LAYER]
    patches = PATCHES if config.top is None else config.top
    if patches > MOST_PATCHES:
        raise UsageError(f"A page shows at most {MOST_PATCHES} patches, not {patches}")
    with subject.pixels() as slide:
        write_html(
            subject,
            slide,
            [subject.layer(name) for name in names],
            path,
            mode=config.mode,
            alpha=config.alpha,
            colour=config.colour,
            patches=patches,
            size=config.size or SLIDE_SIDE,
            workers=config.workers,
            progress=progress,
        )
    return {"of": names, "bytes": path.stat().st_size}


def _png(subject: ExportSource, path: Path, config: ExportConfig, progress: Progress) -> dict[str, Any]:
    frame = _frame(subject, config, PNG_SIDE)
    layer = _layer(subject, "png", config)
    shown = {"of": layer.name, "downsample": [frame.downsample_x, frame.downsample_y]}
    if config.transparent:
        image = colours_alone(layer, frame, config.mode, config.alpha, config.colour)
    else:
        with subject.pixels() as slide:
            view = read_view(slide, frame.downsample_x, frame.downsample_y, workers=config.workers, progress=progress)
        progress(0, 1, "drawing")
        image = draw_layer(layer, subject.caption, view.pixels, frame, config.mode, config.alpha, config.colour)
    files.write_bytes(path, png_bytes(image, {**subject.origin, **shown}))
    return shown


def _pyramid(subject: ExportSource, to: Format, path: Path, config: ExportConfig, progress: Progress) -> dict[str, Any]:
    of = _of(subject, to, config)
    layer = None if of == NO_LAYER else subject.layer(of)
    if to == "ome-tiff" and config.values:
        if layer is None:
            raise ExportError(f"{subject.path} has no values; --values needs a prediction or the scores of a store")
        write_values(path, layer, subject.mpp, subject.origin, config.pyramid)
        return {"of": of, "downsample": [layer.frame.downsample_x, layer.frame.downsample_y]}
    colours = Colours(layer, config.mode, config.alpha, config.colour) if layer else None
    origin = {**subject.origin, "of": of}
    with subject.pixels() as slide:
        finest = slide.info.levels[0]  # those of a store, which may be coarser than the slide
        least = max(1.0, min(finest.downsample_x, finest.downsample_y))
        frame = _frame(subject, config, TIFF_SIDE if to == "ome-tiff" and layer else None, least)
        painter = Painter(slide, frame, colours)
        if to == "dzi":
            write_dzi(path, painter, origin, workers=config.workers, progress=progress)
        else:
            write_picture(
                path,
                painter,
                subject.mpp,
                origin,
                layout=config.pyramid,
                icc_profile=None if layer else slide.info.icc_profile,
                workers=config.workers,
                progress=progress,
            )
    return {
        "of": of,
        "downsample": [frame.downsample_x, frame.downsample_y],
        "unreadable_tiles": painter.unreadable,
    }
