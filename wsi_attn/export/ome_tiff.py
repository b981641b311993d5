"""OME-TIFF: coloured pixels, or the values of a layer, as a tiled pyramid with its pixel size in microns.

Written with tifffile, level by level, from compressed tiles in a temporary file, so memory does not grow with the
slide. The pyramid has one of two layouts: "subifd", which OME-TIFF prescribes and Bio-Formats, QuPath and tifffile
read, and "pages", consecutive reduced pages, which OpenSlide and libvips read.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import tifffile

from wsi_attn.errors import ExportError
from wsi_attn.export.config import Layout
from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.export.pyramid import Painter, build_pyramid, level_sizes, padded, painted
from wsi_attn.export.source import NO_LAYER
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.heatmaps.layer import Layer
from wsi_attn.heatmaps.raster import FloatArray, halve
from wsi_attn.outputs import files
from wsi_attn.paths import printable
from wsi_attn.slide import Progress, UInt8Array, no_progress
from wsi_attn.slide.jpeg_decoding import encode_jpeg

_Levels = list[tuple[tuple[int, ...], Any]]
"""Shape and tiles in row order of each level, finest first."""

SIDE = 16_384
"""Longer side in pixels of a picture with colours: a heatmap shows no more detail beyond it."""

TILE = 512
JPEG_QUALITY = 90
CLASSIC_LIMIT = 2**31
"""Bytes of pixels from which the file is a BigTIFF; compressed it is smaller, so 4 GB are never exceeded."""

MICRONS_PER_CM = 10_000


def write_picture(
    path: Path,
    painter: Painter,
    mpp: Mpp | None,
    origin: Mapping[str, object],
    *,
    layout: Layout = "subifd",
    icc_profile: bytes | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> None:
    """Write the slide as JPEG-compressed RGB, atomically.

    Parameters
    ----------
    painter
        Its frame is the finest level.
    mpp
        Pixel size at the slide's level 0; None omits it.
    origin
        Stored in the OME-XML as an annotation.

    Notes
    -----
    Needs temporary disk space of the size of the file while it is written. Colour is not subsampled, which keeps the
    edges of a heatmap sharp.
    """
    sizes = level_sizes(painter.frame.size, TILE)
    with TemporaryFile() as file:
        spool = _Spool(file)

        def emit(level: int, row: int, column: int, pixels: UInt8Array) -> None:
            spool.put((level, row, column), encode_jpeg(padded(pixels, TILE), JPEG_QUALITY))

        build_pyramid(painter, TILE, sizes, emit, workers, progress)
        options = {
            "photometric": "ycbcr",
            "subsampling": (1, 1),
            "compression": "jpeg",
            "iccprofile": icc_profile,
            "dtype": np.uint8,
        }
        levels: _Levels = [
            ((size.height, size.width, 3), _in_order(spool, level, size)) for level, size in enumerate(sizes)
        ]
        _write(path, levels, _Description(painter.frame, mpp, origin, "uint8", 3), layout, options)


def write_values(
    path: Path, layer: Layer, mpp: Mpp | None, origin: Mapping[str, object], layout: Layout = "subifd"
) -> None:
    """Write the values of a layer as one float32 channel, NaN for invalid cells, one pixel per cell,
    deflate-compressed.

    No predictor is used, since Bio-Formats does not support that of floats. Coarser levels are means ignoring NaN. The
    pixel size defines the position of cells on the slide: both start at the same corner.
    """
    rasters = [layer.values]
    while max(rasters[-1].shape) > TILE:
        rasters.append(halve(rasters[-1]))
    options = {"photometric": "minisblack", "compression": "zlib", "dtype": np.float32}
    levels: _Levels = [(raster.shape, _float_tiles(raster)) for raster in rasters]
    _write(path, levels, _Description(layer.frame, mpp, origin, "float", 1, layer.name), layout, options)


class _Spool:
    """Compressed tiles in a temporary file, added in any order by several threads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._end = 0
        self._lock = threading.Lock()

    def put(self, key: tuple[int, int, int], data: bytes) -> None:
        with self._lock:
            self._file.write(data)
            self._places[key] = self._end, len(data)
            self._end += len(data)

    def get(self, key: tuple[int, int, int]) -> bytes:
        offset, length = self._places[key]
        self._file.seek(offset)
        return self._file.read(length)


def _in_order(spool: _Spool, level: int, size: Size) -> Iterator[bytes]:
    for row in range(math.ceil(size.height / TILE)):
        for column in range(math.ceil(size.width / TILE)):
            yield spool.get((level, row, column))


def _float_tiles(raster: FloatArray) -> Iterator[FloatArray]:
    for top in range(0, raster.shape[0], TILE):
        for left in range(0, raster.shape[1], TILE):
            tile = np.full((TILE, TILE), np.nan, np.float32)
            part = raster[top : top + TILE, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


@dataclass(frozen=True)
class _Description:
    """OME-XML and resolution of the image."""

    frame: Frame
    mpp: Mpp | None
    origin: Mapping[str, object]
    kind: str
    samples: int
    channel: str | None = None

    @property
    def pixel(self) -> tuple[float, float] | None:
        """Extent of a pixel in microns."""
        return (self.mpp.x * self.frame.downsample_x, self.mpp.y * self.frame.downsample_y) if self.mpp else None

    def xml(self, name: str) -> str:
        """The OME-XML of schema 2016-06: one image, one plane in the first page."""
        size, samples = self.frame.size, self.samples
        physical = ""
        if self.pixel:
            physical = "".join(
                f' PhysicalSize{axis}="{value:.12g}" PhysicalSize{axis}Unit="µm"'
                for axis, value in zip("XY", self.pixel, strict=True)
            )
        named = f" Name={quoteattr(self.channel)}" if self.channel else ""
        said = {
            "downsample_x": self.frame.downsample_x,
            "downsample_y": self.frame.downsample_y,
            **{key: value if isinstance(value, str) else json.dumps(value) for key, value in self.origin.items()},
        }
        pairs = "".join(f"<M K={quoteattr(key)}>{escape(str(value))}</M>" for key, value in said.items())
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
            'xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 '
            'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" Creator="wsi-attn">'
            f'<Image ID="Image:0" Name={quoteattr(name)}>'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{self.kind}" SizeX="{size.width}" '
            f'SizeY="{size.height}" SizeC="{samples}" SizeZ="1" SizeT="1"{physical} Interleaved="true">'
            f'<Channel ID="Channel:0:0"{named} SamplesPerPixel="{samples}"/>'
            '<TiffData IFD="0" PlaneCount="1"/></Pixels><AnnotationRef ID="Annotation:0"/></Image>'
            '<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="wsi-attn">'
            f"<Value>{pairs}</Value></MapAnnotation></StructuredAnnotations></OME>"
        )


def _write(
    path: Path,
    levels: _Levels,
    description: _Description,
    layout: Layout,
    options: Mapping[str, Any],
) -> None:
    item = np.dtype(options["dtype"]).itemsize
    big = sum(math.prod(shape) for shape, _ in levels) * item > CLASSIC_LIMIT
    with files.replacing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=big, ome=False) as writer:
        for index, (shape, tiles) in enumerate(levels):
            extra: dict[str, Any] = {"subfiletype": 1} if index else {}
            if not index:
                extra = {"description": description.xml(printable(path.name)).encode()}
                if layout == "subifd":
                    extra["subifds"] = len(levels) - 1
            if description.pixel:
                extra["resolution"] = tuple(MICRONS_PER_CM / value / 2**index for value in description.pixel)
                extra["resolutionunit"] = "CENTIMETER"
            writer.write(tiles, shape=shape, tile=(TILE, TILE), metadata=None, software="wsi-attn", **options, **extra)


def _export(job: Job) -> Entries:
    subject, config = job.subject, job.config
    if config.values:
        if job.of == NO_LAYER:
            raise ExportError(f"{subject.path} has no values; --values needs a prediction or the scores of a store")
        layer = subject.layer(job.of)
        write_values(job.path, layer, subject.mpp, subject.origin, config.pyramid)
        return {"of": job.of, "downsample": [layer.frame.downsample_x, layer.frame.downsample_y]}
    with painted(job, None if job.of == NO_LAYER else SIDE) as found:
        write_picture(
            job.path,
            found.painter,
            subject.mpp,
            found.origin,
            layout=config.pyramid,
            icc_profile=found.slide.info.icc_profile if job.of == NO_LAYER else None,
            workers=config.workers,
            progress=job.progress,
        )
    return found.entries


OME_TIFF = Exporter(
    (".ome.tiff", ".ome.tif", ".tiff", ".tif"),
    ("of", "mode", "alpha", "colour", "size", "downsample", "values", "pyramid"),
    write=_export,
    named=True,
    of_pixels=True,
)
