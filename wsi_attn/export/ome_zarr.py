"""OME-Zarr 0.5: the values of a layer as a separate image, positioned to match the slide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import zarr
from zarr.codecs import ZstdCodec

from wsi_attn.export.exporter import Entries, Exporter
from wsi_attn.export.job import Job
from wsi_attn.geometry import Frame, Mpp
from wsi_attn.heatmaps.layer import Layer
from wsi_attn.heatmaps.raster import halve
from wsi_attn.outputs import files
from wsi_attn.store.ome import VERSION, multiscale

CHUNK = 512
SMALLEST = 256


def write_ome_zarr(path: Path, layer: Layer, mpp: Mpp | None, origin: Mapping[str, object]) -> None:
    """Write a float32 image (y, x), NaN for invalid cells, with coarser levels, atomically.

    Coordinates are microns, or level-0 pixels if the pixel size is unknown; see `multiscale`.
    """
    levels = [layer.values]
    while max(levels[-1].shape) > SMALLEST:
        levels.append(halve(levels[-1]))
    own = layer.frame
    frames = [Frame(own.size, own.downsample_x * 2**index, own.downsample_y * 2**index) for index in range(len(levels))]
    image = multiscale(layer.name, frames, mpp, centred=True, kind="mean ignoring NaN")
    attributes = {
        "ome": {"version": VERSION, "multiscales": [image]},
        "wsi_attn_export": {
            **origin,
            "quantity": layer.name,
            "downsample": [own.downsample_x, own.downsample_y],
        },
    }
    with files.new_folder(path) as folder:
        group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
        for index, values in enumerate(levels):
            array = group.create_array(
                str(index),
                shape=values.shape,
                chunks=(min(CHUNK, values.shape[0]), min(CHUNK, values.shape[1])),
                dtype="float32",
                fill_value=float("nan"),
                compressors=ZstdCodec(level=3, checksum=True),
                dimension_names=("y", "x"),
            )
            array[...] = values


def _export(job: Job) -> Entries:
    layer = job.layer()
    write_ome_zarr(job.path, layer, job.subject.mpp, job.subject.origin)
    return {"of": layer.name, "downsample": [layer.frame.downsample_x, layer.frame.downsample_y]}


OME_ZARR = Exporter((".zarr",), ("of",), write=_export, named=True, zarr=True)
