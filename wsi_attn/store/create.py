"""The empty house of a store: every group and array with its metadata, tissue and coordinates, no pixels yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from wsi_attn import files
from wsi_attn.contract import BACKGROUND, Level
from wsi_attn.geometry import Frame, Size
from wsi_attn.store import ome, sharding
from wsi_attn.store.schema import ATTRIBUTE, TISSUE_LABEL, GridInfo, StoreMeta

LABEL_CHUNK = 1024


def create_store(
    path: Path,
    meta: StoreMeta,
    grid: GridInfo,
    coords: NDArray[np.int64],
    tissue: NDArray[np.uint8],
    tissue_frame: Frame,
    scores: dict[str, dict[str, Any]],
) -> None:
    """Create a store in state "writing"; it appears at `path` whole, replacing what was there.

    Parameters
    ----------
    coords
        int64 (N, 2), see `schema.COORDS_SENTENCE`.
    tissue
        uint8 (rows, columns) over `tissue_frame`, values as in `schema`.
    scores
        Attributes of each score array, by name.
    """
    if path.exists() and not path.is_dir():
        path.unlink()  # a folder cannot take the place of a file by renaming
    with files.new_folder(path) as folder:
        image = ome.image_attributes(meta.source.name, meta.levels, meta.mpp)
        root = zarr.create_group(folder, zarr_format=3, attributes={"ome": image, ATTRIBUTE: meta.to_json()})
        for index, level in enumerate(meta.levels):
            _create_level(root, str(index), level)
        labels = root.create_group("labels", attributes={"ome": ome.labels_attributes([TISSUE_LABEL])})
        _create_tissue(labels, tissue, tissue_frame, meta)
        _create_grid(root.create_group("tiles"), grid, coords, scores)


def _create_level(root: zarr.Group, name: str, level: Level) -> None:
    tile = level.tile_size.width
    rows, columns = sharding.shard_chunks(level.size, tile)
    root.create_array(
        name,
        shape=(sharding.CHANNELS, level.size.height, level.size.width),
        chunks=(sharding.CHANNELS, tile, tile),
        shards=(sharding.CHANNELS, rows * tile, columns * tile),
        dtype="uint8",
        compressors=ZstdCodec(level=sharding.ZSTD_LEVEL, checksum=True),
        fill_value=BACKGROUND,
        dimension_names=("c", "y", "x"),
    )


def _create_tissue(labels: zarr.Group, tissue: NDArray[np.uint8], frame: Frame, meta: StoreMeta) -> None:
    # OME-Zarr wants as many levels of a label as of its image; coarser ones take every second pixel.
    frames, rasters = [frame], [tissue]
    for _ in meta.levels[1:]:
        rasters.append(rasters[-1][::2, ::2])
        size = Size(rasters[-1].shape[1], rasters[-1].shape[0])
        frames.append(Frame(size, frames[-1].downsample_x * 2, frames[-1].downsample_y * 2))
    factors = {"downsample": [frame.downsample_x, frame.downsample_y]}
    image = ome.label_attributes(TISSUE_LABEL, frames, meta.mpp)
    label = labels.create_group(TISSUE_LABEL, attributes={"ome": image, ATTRIBUTE: factors})
    for index, raster in enumerate(rasters):
        chunks = (min(LABEL_CHUNK, raster.shape[0]), min(LABEL_CHUNK, raster.shape[1]))
        _create(label, str(index), raster.shape, chunks, "uint8", 0, dimension_names=("y", "x"))[...] = raster


def _create_grid(
    tiles: zarr.Group, grid: GridInfo, coords: NDArray[np.int64], scores: dict[str, dict[str, Any]]
) -> None:
    group = tiles.create_group(grid.name)
    one_chunk = max(1, len(coords))
    array = _create(group, "coords", coords.shape, (one_chunk, 2), "int64", 0, attributes=grid.to_json())
    if len(coords):
        array[...] = coords
    _create(group, "readable", (len(coords),), (one_chunk,), "bool", False)
    score_group = group.create_group("scores")
    for name, attributes in scores.items():
        _create(score_group, name, (len(coords),), (one_chunk,), "float32", float("nan"), attributes=attributes)


def _create(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    fill: float | bool,
    **options: Any,
) -> zarr.Array[Any]:
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, compressors=_compressor(), **options
    )


def _compressor() -> ZstdCodec:
    return ZstdCodec(level=sharding.ZSTD_LEVEL, checksum=True)


def write_vector(folder: Path, values: NDArray[np.float32] | NDArray[np.bool_]) -> None:
    """Write the one chunk of an array (N,) that `create_store` made, whole or not at all."""
    if len(values):
        little = values.astype(values.dtype.newbyteorder("<"))
        files.write_bytes(folder / "c" / "0", sharding.zstd(little.tobytes()))
