"""DeepZoom: `STEM.dzi` and the folder `STEM_files` of JPEG tiles, as used by OpenSeadragon and many servers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import cv2

from wsi_attn.errors import ExportError
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.export.pyramid import Painter, build_pyramid, level_sizes, painted
from wsi_attn.json_types import JsonObject
from wsi_attn.outputs import files
from wsi_attn.slide import Progress, UInt8Array, no_progress

TILE = 254
"""Tile side of common DeepZoom tools; tiles do not overlap."""

QUALITY = 90
FORMAT = "jpeg"


def tile_folder(path: Path) -> Path:
    """The tile folder of a `.dzi`."""
    return path.with_name(f"{path.name.removesuffix('.dzi')}_files")


def write_dzi(
    path: Path,
    painter: Painter,
    origin: Mapping[str, object],
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> None:
    """Write the painter's frame as a DeepZoom image.

    The tiles are written under a temporary name and renamed when complete; the descriptor is written last. It contains
    `origin` in attributes of its own namespace, which viewers ignore.
    """
    size = painter.frame.size
    sizes = level_sizes(size, 1)
    highest = len(sizes) - 1  # DeepZoom numbers from the coarsest
    with files.new_folder(tile_folder(path)) as folder:
        for level in range(len(sizes)):
            (folder / str(level)).mkdir()

        def emit(level: int, row: int, column: int, pixels: UInt8Array) -> None:
            parameters = (cv2.IMWRITE_JPEG_QUALITY, QUALITY)
            done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), parameters)
            if not done:
                raise ExportError(f"Cannot encode tile {column}_{row} of level {highest - level} of {path}")
            (folder / str(highest - level) / f"{column}_{row}.{FORMAT}").write_bytes(data.tobytes())

        build_pyramid(painter, TILE, sizes, emit, workers, progress)
    words = "".join(f" wa:{key}={quoteattr(str(value))}" for key, value in _flat(origin, painter).items())
    files.write_text(
        path,
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" xmlns:wa="urn:wsi-attn" '
        f'Format="{FORMAT}" Overlap="0" TileSize="{TILE}"{words}>'
        f'<Size Width="{size.width}" Height="{size.height}"/></Image>\n',
    )


def _flat(origin: Mapping[str, object], painter: Painter) -> JsonObject:
    plain = {key: value for key, value in origin.items() if isinstance(value, str)}
    factors = {"downsample_x": painter.frame.downsample_x, "downsample_y": painter.frame.downsample_y}
    return {**plain, **factors}


def _export(job: Job) -> Entries:
    with painted(job, None) as found:
        write_dzi(job.path, found.painter, found.origin, workers=job.config.workers, progress=job.progress)
    return found.entries


DZI = Exporter(
    (".dzi",),
    ("of", "mode", "alpha", "colour", "size", "downsample"),
    write=_export,
    of_pixels=True,
    beside=lambda path: (tile_folder(path),),
)
