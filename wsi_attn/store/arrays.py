"""Zarr v3 groups and arrays without the Zarr library: JSON documents and Zstandard chunks.

The format is small and fixed, and writing a store takes a few milliseconds, whereas importing Zarr takes longer than
tiling a slide. Unlike Zarr, reading does not fill missing chunks: a missing chunk is damage. Tests compare every
document with that of Zarr.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wsi_attn.errors import StoreDamagedError
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.slide import BACKGROUND, Level
from wsi_attn.store import sharding
from wsi_attn.store.backend import FolderBackend
from wsi_attn.store.chunk_codec import ZSTD_CHAIN, ChunkCodec, unzstd, zstd
from wsi_attn.store.schema import named_field

DOCUMENT = "zarr.json"
MOST_CHUNKS = 1 << 24
"""Upper limit of the chunks of an array: a damaged shape raises an error instead of looping endlessly."""

LITTLE = {"endian": "little"}


def put_group(place: FolderBackend, key: str, attributes: Mapping[str, Json]) -> None:
    """Write a group; the root has the key ""."""
    _put_document(place, key, {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"})


def put_level(place: FolderBackend, key: str, level: Level, codec: ChunkCodec) -> None:
    """Write the metadata of a sharded level, uint8 (3, rows, columns), whose chunks are tiles; no pixels."""
    tile, (rows, columns) = level.tile_size, sharding.shard_chunks(level.size, level.tile_size)
    shards: JsonObject = {
        "chunk_shape": [sharding.CHANNELS, tile.height, tile.width],
        "codecs": codec.chain(),
        "index_codecs": [{"name": "bytes", "configuration": LITTLE}, {"name": "crc32c"}],
        "index_location": "end",
    }
    shape = [sharding.CHANNELS, level.size.height, level.size.width]
    shard_shape = [sharding.CHANNELS, rows * tile.height, columns * tile.width]
    chunks = _chunks(shard_shape, BACKGROUND, [{"name": "sharding_indexed", "configuration": shards}])
    _put_array(place, key, {"shape": shape, "data_type": "uint8", **chunks}, {}, ("c", "y", "x"))


def put_array(
    place: FolderBackend,
    key: str,
    values: NDArray[np.generic],
    *,
    chunk: int | None = None,
    attributes: Mapping[str, Json] | None = None,
    dimension_names: Sequence[str] | None = None,
) -> None:
    """Write a numeric or boolean array, metadata and chunks.

    Parameters
    ----------
    chunk
        Side of a chunk along every axis; by default the array is one chunk.
    """
    shape = [max(1, min(chunk or extent, extent)) for extent in values.shape]
    little: JsonObject = {"name": "bytes", "configuration": LITTLE} if values.itemsize > 1 else {"name": "bytes"}
    fill = "NaN" if values.dtype.kind == "f" else values.dtype.type(0).item()
    chunks = _chunks(shape, fill, [little, ZSTD_CHAIN])
    layout: JsonObject = {"shape": list(values.shape), "data_type": str(values.dtype), **chunks}
    _put_array(place, key, layout, attributes or {}, dimension_names)
    for index in np.ndindex(*(-(-extent // side) for extent, side in zip(values.shape, shape, strict=True))):
        window = tuple(slice(number * side, (number + 1) * side) for number, side in zip(index, shape, strict=True))
        part = values[window]
        if part.shape != tuple(shape):  # chunks at the border are stored whole
            whole = np.zeros(shape, values.dtype)
            whole[tuple(slice(extent) for extent in part.shape)] = part
            part = whole
        little_endian = np.ascontiguousarray(part, values.dtype.newbyteorder("<"))
        place.put(chunk_key(key, index), zstd(little_endian.tobytes()))


def _chunks(shape: list[int], fill: Json, chain: list[Json]) -> JsonObject:
    return {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": chain,
    }


def _put_array(
    place: FolderBackend,
    key: str,
    layout: JsonObject,
    attributes: Mapping[str, Json],
    dimension_names: Sequence[str] | None,
) -> None:
    document: JsonObject = {
        **layout,
        "attributes": dict(attributes),
        **({"dimension_names": list(dimension_names)} if dimension_names else {}),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    _put_document(place, key, document)


def _put_document(place: FolderBackend, key: str, document: Mapping[str, Json]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    place.put(f"{key}/{DOCUMENT}" if key else DOCUMENT, text.encode())


Extent = Annotated[int, Meta(ge=0, lt=2**40)]


class _ChunkShape(msgspec.Struct, frozen=True):
    chunk_shape: list[Annotated[int, Meta(ge=1, lt=2**31)]]


class _ChunkGrid(msgspec.Struct, frozen=True):
    name: Literal["regular"]
    configuration: _ChunkShape


class _Codec(msgspec.Struct, frozen=True):
    name: Literal["bytes", "zstd"]


class ArrayDocument(msgspec.Struct, frozen=True):
    """The `zarr.json` of an array written by `put_array`."""

    shape: list[Extent]
    data_type: Literal["bool", "uint8", "int64", "float32"]
    chunk_grid: _ChunkGrid
    codecs: list[_Codec]
    attributes: dict[str, object]
    zarr_format: Literal[3]
    node_type: Literal["array"]

    @property
    def chunk_shape(self) -> list[int]:
        """Extents of a chunk."""
        return self.chunk_grid.configuration.chunk_shape

    def chunks(self) -> Iterator[tuple[int, ...]]:
        """Indices of all chunks, row by row."""
        return np.ndindex(*self._chunk_counts())

    def _chunk_counts(self) -> list[int]:
        return [-(-extent // side) for extent, side in zip(self.shape, self.chunk_shape, strict=True)]

    def check(self) -> None:
        """Raise ValueError if the fields contradict each other."""
        if len(self.shape) != len(self.chunk_shape):
            raise ValueError(f"shape {self.shape} and chunk_shape {self.chunk_shape} differ in their number of axes")
        if math.prod(self._chunk_counts()) > MOST_CHUNKS:
            raise ValueError(f"shape {self.shape} has too many chunks of {self.chunk_shape}")


Load = Callable[[str], bytes]
"""Content of a file of the store by its key; raises StoreDamagedError if the file is missing or has changed."""


def chunk_key(key: str, index: Sequence[int]) -> str:
    """Key of a chunk of the array `key`."""
    return "/".join([key, "c", *map(str, index)])


def read_document(load: Load, key: str, where: object = "") -> ArrayDocument:
    """Read the metadata of an array.

    Parameters
    ----------
    where
        The store, for error messages.

    Raises
    ------
    StoreDamagedError : the file is missing or has changed, or a field of it is invalid.
    """
    data = load(f"{key}/{DOCUMENT}")
    try:
        document = msgspec.json.decode(data, type=ArrayDocument)
        document.check()
    except (ValueError, RecursionError) as error:
        raise StoreDamagedError(f"{where}/{key}/{DOCUMENT} is damaged: {named_field(error, '')}") from error
    return document


def read_array(load: Load, key: str, where: object = "") -> tuple[NDArray[np.generic], Mapping[str, object]]:
    """Read the values and attributes of an array written by `put_array`; every chunk must exist.

    Raises
    ------
    StoreDamagedError : a file is missing, has changed or cannot be decoded.
    """
    document = read_document(load, key, where)
    sides, dtype = document.chunk_shape, np.dtype(document.data_type)
    parts = []
    for index in document.chunks():
        name = chunk_key(key, index)
        try:
            part = np.frombuffer(unzstd(load(name)), dtype.newbyteorder("<")).reshape(sides)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, StoreDamagedError):
                raise
            raise StoreDamagedError(f"{where}/{name} is damaged: it cannot be decoded ({error})") from error
        parts.append((index, part))
    values = np.zeros(document.shape, dtype)
    for index, part in parts:
        window = values[
            tuple(slice(number * side, (number + 1) * side) for number, side in zip(index, sides, strict=True))
        ]
        window[...] = part[tuple(slice(extent) for extent in window.shape)]
    return values, document.attributes
