"""Creating what a store holds: its levels, still without pixels, its tissue label, and later its grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import TransposeCodec, ZstdCodec

from wsi_attn import files
from wsi_attn.contract import BACKGROUND, Level
from wsi_attn.geometry import Frame, Size
from wsi_attn.store import ome, sharding, zarr_codecs
from wsi_attn.store.chunk_codec import INTERLEAVED, ZSTD_LEVEL, ChunkCodec
from wsi_attn.store.schema import ATTRIBUTE, TISSUE_LABEL, GridInfo, StoreMeta

LABEL_CHUNK = 1024


def create_store(
    path: Path, meta: StoreMeta, codecs: Sequence[ChunkCodec], tissue: NDArray[np.uint8], tissue_frame: Frame
) -> None:
    """Create a store in state "writing"; it appears at `path` whole, replacing what was there.

    Parameters
    ----------
    codecs
        Of the chunks of each level.
    tissue
        uint8 (rows, columns) over `tissue_frame`, values as in `schema`.
    """
    if path.exists() and not path.is_dir():
        path.unlink()  # a folder cannot take the place of a file by renaming
    with files.new_folder(path) as folder:
        image = ome.image_attributes(meta.source.name, meta.levels, meta.mpp)
        root = zarr.create_group(folder, zarr_format=3, attributes={"ome": image, ATTRIBUTE: meta.to_json()})
        for index, (level, codec) in enumerate(zip(meta.levels, codecs, strict=True)):
            _create_level(root, str(index), level, codec)
        labels = root.create_group("labels", attributes={"ome": ome.labels_attributes([TISSUE_LABEL])})
        _create_tissue(labels, tissue, tissue_frame, meta)
        root.create_group("tiles")


def _create_level(root: zarr.Group, name: str, level: Level, codec: ChunkCodec) -> None:
    tile = level.tile_size
    rows, columns = sharding.shard_chunks(level.size, tile)
    compression: dict[str, Any] = {"compressors": _compressor()}
    if codec.encoding is not None:
        (_, stream) = codec.chain()
        order = INTERLEAVED["configuration"]["order"]  # type: ignore[index]
        compression = {
            "filters": [TransposeCodec(order=tuple(order))],
            "serializer": zarr_codecs.of_stream(stream),
            "compressors": None,
        }
    root.create_array(
        name,
        shape=(sharding.CHANNELS, level.size.height, level.size.width),
        chunks=(sharding.CHANNELS, tile.height, tile.width),
        shards=(sharding.CHANNELS, rows * tile.height, columns * tile.width),
        dtype="uint8",
        fill_value=BACKGROUND,
        dimension_names=("c", "y", "x"),
        **compression,
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
        _create(label, str(index), raster, chunks, 0, dimension_names=("y", "x"))


def write_grid(
    path: Path,
    grid: GridInfo,
    coords: NDArray[np.int64],
    readable: NDArray[np.bool_],
    scores: Mapping[str, NDArray[np.float32]],
    score_attributes: Mapping[str, Mapping[str, Any]],
) -> None:
    """Add a grid to the store at `path`; it appears whole, replacing one of the same name.

    Parameters
    ----------
    coords
        int64 (N, 2), see `schema.COORDS_SENTENCE`.
    readable
        bool (N,).
    scores
        float32 (N,) each, by name, with what each says of itself.
    """
    with files.new_folder(path / "tiles" / grid.name) as folder:
        group = zarr.create_group(folder, zarr_format=3)
        _create(group, "coords", coords, (max(1, len(coords)), 2), 0, attributes=grid.to_json())
        _create(group, "readable", readable, (max(1, len(coords)),), False)
        score_group = group.create_group("scores")
        for name, values in scores.items():
            attributes = dict(score_attributes[name])
            _create(score_group, name, values, (max(1, len(coords)),), float("nan"), attributes=attributes)


def _create(
    group: zarr.Group, name: str, values: NDArray[Any], chunks: tuple[int, ...], fill: float | bool, **options: Any
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        fill_value=fill,
        compressors=_compressor(),
        **options,
    )
    if values.size:
        array[...] = values


def _compressor() -> ZstdCodec:
    return ZstdCodec(level=ZSTD_LEVEL, checksum=True)
