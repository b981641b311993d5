"""Creating a store: its levels without pixels, its tissue label and its grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame, Size
from wsi_attn.json_types import Json
from wsi_attn.outputs import files
from wsi_attn.store import ome
from wsi_attn.store.additions import adding
from wsi_attn.store.arrays import put_array, put_group, put_level
from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.chunk_codec import ChunkCodec
from wsi_attn.store.schema import (
    ATTRIBUTE,
    GROUP_FILE,
    TISSUE_LABEL,
    FileInfo,
    GridInfo,
    StoreMeta,
    encode_root,
)

LABEL_CHUNK = 1024


def create_store(
    path: Path, meta: StoreMeta, codecs: Sequence[ChunkCodec], tissue: NDArray[np.uint8], tissue_frame: Frame
) -> None:
    """Create a store in state "writing" atomically at `path`, replacing existing content.

    Parameters
    ----------
    codecs
        Of the chunks of each level.
    tissue
        uint8 (rows, columns) over `tissue_frame`, values as in `schema`.
    """
    with files.new_folder(path) as folder:
        place = FolderBackend(folder)
        for index, (level, codec) in enumerate(zip(meta.levels, codecs, strict=True)):
            put_level(place, str(index), level, codec)
        put_group(place, "labels", {"ome": ome.labels_attributes([TISSUE_LABEL])})
        _put_tissue(place, tissue, tissue_frame, meta)
        put_group(place, "tiles", {})
        image = ome.image_attributes(meta.source.name, meta.levels, meta.mpp)
        meta = dataclasses.replace(meta, files=place.written)
        place.put(GROUP_FILE, encode_root({"ome": image}, meta))


def _put_tissue(place: FolderBackend, tissue: NDArray[np.uint8], frame: Frame, meta: StoreMeta) -> None:
    # OME-Zarr requires as many levels in a label as in its image; coarser levels take every second pixel.
    frames, rasters = [frame], [tissue]
    for _ in meta.levels[1:]:
        rasters.append(rasters[-1][::2, ::2])
        size = Size(rasters[-1].shape[1], rasters[-1].shape[0])
        frames.append(Frame(size, frames[-1].downsample_x * 2, frames[-1].downsample_y * 2))
    factors = {"downsample": [frame.downsample_x, frame.downsample_y]}
    image = ome.label_attributes(TISSUE_LABEL, frames, meta.mpp)
    key = f"labels/{TISSUE_LABEL}"
    put_group(place, key, {"ome": image, ATTRIBUTE: factors})
    for index, raster in enumerate(rasters):
        put_array(place, f"{key}/{index}", raster, chunk=LABEL_CHUNK, dimension_names=("y", "x"))


def write_grid(
    path: Path,
    grid: GridInfo,
    coords: NDArray[np.int64],
    readable: NDArray[np.bool_],
    scores: Mapping[str, NDArray[np.float32]],
    score_attributes: Mapping[str, Mapping[str, Json]],
) -> dict[str, FileInfo]:
    """Add a grid to the store at `path` atomically, replacing a grid of the same name.

    The metadata of a complete store records the files of the grid; in a store that is still being written they are
    recorded on completion.

    Parameters
    ----------
    coords
        int64 (N, 2), see `schema.COORDS_SENTENCE`.
    readable
        bool (N,).
    scores
        float32 (N,) each, by name.
    score_attributes
        Attributes of each score, by name.

    Returns
    -------
    Size and checksum of each file of the grid, by its path in the store.
    """
    group = f"tiles/{grid.name}"
    with adding(path, group) as announce, files.new_folder(path / group) as folder:
        place = FolderBackend(folder)
        put_array(place, "coords", coords, attributes=grid.to_json())
        put_array(place, "readable", readable)
        for name, values in scores.items():
            put_array(place, f"scores/{name}", values, attributes=score_attributes[name])
        put_group(place, "scores", {})
        put_group(place, "", {})
        written = {f"{group}/{key}": file for key, file in place.written.items()}
        announce(written)
    return written
