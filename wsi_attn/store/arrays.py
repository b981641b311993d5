"""Zarr v3 groups and arrays written as what they are: a JSON document each, and chunks under Zstandard.

The format is small and fixed, and a store is made in a few milliseconds; loading the library that could write it as
well takes longer than tiling a slide. Tests hold every document against the one that Zarr itself writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_attn.slide import BACKGROUND, Level
from wsi_attn.store import sharding
from wsi_attn.store.backend import Backend
from wsi_attn.store.chunk_codec import ZSTD_CHAIN, ChunkCodec, zstd

DOCUMENT = "zarr.json"
LITTLE = {"endian": "little"}


def put_group(place: Backend, key: str, attributes: Mapping[str, Any]) -> None:
    """Write a group; the root has the key ""."""
    _put_document(place, key, {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"})


def put_level(place: Backend, key: str, level: Level, codec: ChunkCodec) -> None:
    """Write the metadata of a sharded level, uint8 (3, rows, columns), whose chunks are tiles; no pixels."""
    tile, (rows, columns) = level.tile_size, sharding.shard_chunks(level.size, level.tile_size)
    shards = {
        "chunk_shape": [sharding.CHANNELS, tile.height, tile.width],
        "codecs": codec.chain(),
        "index_codecs": [{"name": "bytes", "configuration": LITTLE}, {"name": "crc32c"}],
        "index_location": "end",
    }
    shape = [sharding.CHANNELS, level.size.height, level.size.width]
    shard_shape = [sharding.CHANNELS, rows * tile.height, columns * tile.width]
    chain = [{"name": "sharding_indexed", "configuration": shards}]
    _put_array(place, key, shape, "uint8", shard_shape, BACKGROUND, chain, {}, ("c", "y", "x"))


def put_array(
    place: Backend,
    key: str,
    values: NDArray[Any],
    *,
    chunk: int | None = None,
    attributes: Mapping[str, Any] | None = None,
    dimension_names: Sequence[str] | None = None,
) -> None:
    """Write an array of numbers or truth values, metadata and chunks.

    Parameters
    ----------
    chunk
        Side of a chunk along every axis; by default all is one chunk.
    """
    shape = [max(1, min(chunk or extent, extent)) for extent in values.shape]
    little = {"name": "bytes", "configuration": LITTLE} if values.itemsize > 1 else {"name": "bytes"}
    fill = "NaN" if values.dtype.kind == "f" else values.dtype.type(0).item()
    chain = [little, ZSTD_CHAIN]
    _put_array(place, key, list(values.shape), str(values.dtype), shape, fill, chain, attributes or {}, dimension_names)
    for index in np.ndindex(*(-(-extent // side) for extent, side in zip(values.shape, shape, strict=True))):
        window = tuple(slice(number * side, (number + 1) * side) for number, side in zip(index, shape, strict=True))
        part = values[window]
        if part.shape != tuple(shape):  # chunks at the edge are stored whole
            whole = np.zeros(shape, values.dtype)
            whole[tuple(slice(extent) for extent in part.shape)] = part
            part = whole
        little_endian = np.ascontiguousarray(part, values.dtype.newbyteorder("<"))
        place.put("/".join([key, "c", *map(str, index)]), zstd(little_endian.tobytes()))


def _put_array(
    place: Backend,
    key: str,
    shape: list[int],
    data_type: str,
    chunk_shape: list[int],
    fill: Any,
    chain: list[dict[str, Any]],
    attributes: Mapping[str, Any],
    dimension_names: Sequence[str] | None,
) -> None:
    document = {
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": chain,
        "attributes": dict(attributes),
        **({"dimension_names": list(dimension_names)} if dimension_names else {}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    _put_document(place, key, document)


def _put_document(place: Backend, key: str, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    place.put(f"{key}/{DOCUMENT}" if key else DOCUMENT, text.encode())
