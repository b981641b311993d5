"""Chunks of one level, read from its shards without the Zarr library, compressed or decoded.

Neighbouring chunks are read together, and JPEG tiles can be passed on undecoded. Thread-safe.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wsi_attn.errors import NotEncodedError, SlideReadError, StoreDamagedError, StoreError, TileDecodeError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Region, Size
from wsi_attn.packed import Packed
from wsi_attn.slide import Level, UInt8Array, background, paste
from wsi_attn.slide.encoding import TileEncoding
from wsi_attn.store import sharding
from wsi_attn.store.arrays import DOCUMENT
from wsi_attn.store.checked_files import CheckedFiles
from wsi_attn.store.chunk_codec import ChunkCodec, CodecDocument
from wsi_attn.store.schema import Side, named_field


class LevelChunks:
    """Chunks of one level of a store in a folder; implements `EncodedTiles` for JPEG and JPEG 2000.

    Parameters
    ----------
    files
        The files of the store.
    index, level
        The index of the level, and its size in the store's metadata.

    Raises
    ------
    StoreDamagedError : the level's metadata is missing, has changed, or contradicts the store's.
    StoreSchemaError : its chunks have an unsupported codec.
    """

    recoded = 0

    def __init__(self, files: CheckedFiles, index: int, level: Level) -> None:
        self.store, self.index, self.level = files.store, index, level
        self.codec = _codec_of(files, index, level)
        self.counts = -(-level.size.height // level.tile_size.height), -(-level.size.width // level.tile_size.width)
        self.shard = sharding.shard_chunks(level.size, level.tile_size)
        self._lock = threading.Lock()
        self._indexes: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @property
    def encoding(self) -> TileEncoding:
        """Encoding of the chunks if they are image streams."""
        if self.codec.encoding is None:
            raise NotEncodedError(f"its chunks are {self.codec.name}, not JPEG")
        return self.codec.encoding

    @property
    def tile_size(self) -> Size:
        """Extent of every chunk in pixels of the level."""
        return self.level.tile_size

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows, columns): bytes of each chunk, 0 for absent ones."""
        found = np.zeros(self.counts, np.int64)
        rows, columns = self.shard
        for row in range(0, self.counts[0], rows):
            for column in range(0, self.counts[1], columns):
                _, lengths = self._index(row // rows, column // columns)
                window = found[row : row + rows, column : column + columns]
                window[...] = lengths.reshape(rows, columns)[: window.shape[0], : window.shape[1]]
        return found

    def read(self, cells: Sequence[tuple[int, int]]) -> list[bytes | memoryview]:
        """Bytes of chunks given as (row, column), empty for absent ones; see `EncodedTiles.read`."""
        rows, columns = self.shard
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place, (row, column) in enumerate(cells):
            number = row % rows * columns + column % columns
            wanted.setdefault((row // rows, column // columns), []).append((place, number))
        found: list[bytes | memoryview] = [b""] * len(cells)
        for shard, places in wanted.items():
            offsets, lengths = self._index(*shard)
            numbers = [number for _, number in places]
            if lengths[numbers].any():
                for (place, _), data in zip(places, self._read(shard, offsets[numbers], lengths[numbers]), strict=True):
                    found[place] = data
        return found

    def pixels(self, region: Region) -> UInt8Array:
        """Pixels (height, width, 3) of a region inside the level; background for absent chunks.

        Raises
        ------
        SlideReadError : a chunk cannot be read or decoded.
        """
        width, height = self.tile_size
        cells = [
            (row, column)
            for row in range(region.y // height, -(-region.y1 // height))
            for column in range(region.x // width, -(-region.x1 // width))
        ]
        data = self.read(cells)
        if len(cells) == 1 and data[0] and (region.width, region.height) == (width, height):
            return np.ascontiguousarray(self.decode(cells[0], data[0]))
        found = background((region.width, region.height))
        for (row, column), chunk in zip(cells, data, strict=True):
            if len(chunk):
                tile = Region(column * width, row * height, width, height)
                paste(found, region, self.decode((row, column), chunk), tile)
        return found

    def decode(self, cell: tuple[int, int], data: bytes | memoryview, out: UInt8Array | None = None) -> UInt8Array:
        """Decode one chunk to pixels (height, width, 3); raises `SlideReadError` if it is damaged."""
        try:
            return self.codec.decode(data, self.tile_size, out)
        except TileDecodeError as error:
            raise SlideReadError(
                f"{self.store}: level {self.index}, chunk at row {cell[0]}, column {cell[1]}: {error}"
            ) from error

    def _index(self, row: int, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with self._lock:
            if (row, column) not in self._indexes:
                self._indexes[row, column] = self._read_index(self._path(row, column))
            return self._indexes[row, column]

    def _read_index(self, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = self.shard[0] * self.shard[1]
        wanted = sharding.index_bytes(count)
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - wanted))
                offsets, lengths = sharding.decode_index(file.read(), count)
        except FileNotFoundError:
            return np.zeros(count, np.int64), np.zeros(count, np.int64)
        except (OSError, ValueError) as error:
            raise SlideReadError(f"{path}: {error}") from error
        if int((offsets + lengths).max()) > size - wanted:
            raise SlideReadError(f"{path}: the index of the shard points outside the shard")
        return offsets, lengths

    def _read(self, shard: tuple[int, int], offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> Packed:
        path = self._path(*shard)
        try:
            file = FileBytes(path)
        except OSError as error:
            raise SlideReadError(f"{path}: {error.strerror}") from error
        with file:
            return file.read_many(offsets, lengths)

    def _path(self, row: int, column: int) -> Path:
        return self.store / sharding.shard_key(self.index, row, column)


class _ShardChain(msgspec.Struct, frozen=True):
    chunk_shape: tuple[Side, Side, Side]
    codecs: Annotated[list[CodecDocument], Meta(min_length=1)]


class _ShardCodec(msgspec.Struct, frozen=True):
    name: Literal["sharding_indexed"]
    configuration: _ShardChain


class _LevelDocument(msgspec.Struct, frozen=True):
    shape: tuple[Side, Side, Side]
    codecs: tuple[_ShardCodec]


def _codec_of(files: CheckedFiles, index: int, level: Level) -> ChunkCodec:
    key = f"{index}/{DOCUMENT}"
    try:
        document = msgspec.json.decode(files.read(key), type=_LevelDocument)
        shards = document.codecs[0].configuration
        if document.shape[1:] != (level.size.height, level.size.width):
            raise ValueError(f"shape {document.shape} is not that of the level, {tuple(level.size)}")
        if shards.chunk_shape[1:] != (level.tile_size.height, level.tile_size.width):
            raise ValueError(f"chunk_shape {shards.chunk_shape} is not the level's tile size {tuple(level.tile_size)}")
        return ChunkCodec.from_chain(shards.codecs)
    except StoreError:
        raise
    except (ValueError, RecursionError) as error:
        raise StoreDamagedError(f"{files.store / key} is damaged: {named_field(error, '')}") from error
