"""Shards: how many chunks go into one file, and the bytes of a shard from the bytes of its chunks.

Shards are put together here, not by Zarr, for two reasons: chunks are compressed by the threads that decode
the slide, so that only compressed bytes are held; and the same chunks give the same file, whatever was
interrupted before. The layout is the `sharding_indexed` codec of Zarr v3: chunks in row order, then the index
of (offset, length) as little-endian uint64, then its CRC-32C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from wsi_attn.contract import BACKGROUND, UInt8Array
from wsi_attn.geometry import Size

SHARD_BYTES = 128 << 20
"""Most uncompressed bytes in a shard: large enough that a slide is dozens of files, small enough to hold two."""

ZSTD_LEVEL = 3
"""Levels above gain a few per cent on tissue and cost several times the time."""

CHANNELS = 3
ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that reads as the fill value."""

CRC32C_POLYNOMIAL = 0x82F63B78


def shard_chunks(size: Size, tile: int) -> tuple[int, int]:
    """Rows and columns of chunks in a shard of a level: the whole level where it fits, else about square."""
    rows, columns = math.ceil(size.height / tile), math.ceil(size.width / tile)
    most = max(1, SHARD_BYTES // (CHANNELS * tile * tile))
    if rows * columns <= most:
        return rows, columns
    side = math.isqrt(most)
    if rows <= side:
        return rows, min(columns, most // rows)
    if columns <= side:
        return min(rows, most // columns), columns
    return side, side


def shard_path(store: Path, level: int, row: int, column: int) -> Path:
    """The file of one shard."""
    return store / str(level) / "c" / "0" / str(row) / str(column)


def encode_chunk(pixels: UInt8Array) -> bytes | None:
    """Compressed bytes of a chunk from its pixels (tile, tile, 3); None where all of it is background."""
    if (pixels == BACKGROUND).all():
        return None
    return bytes(zstd(np.ascontiguousarray(pixels.transpose(2, 0, 1))))


def zstd(data: UInt8Array | bytes) -> bytes:
    """Zstandard with a checksum, so that a damaged chunk is noticed when it is read."""
    return bytes(Zstd(level=ZSTD_LEVEL, checksum=True).encode(data))


def encode_shard(chunks: Sequence[bytes | None]) -> bytes | None:
    """The file of a shard from its chunks in row order, None for absent ones; None where all are absent."""
    index = np.full((len(chunks), 2), ABSENT, "<u8")
    offset = 0
    for number, chunk in enumerate(chunks):
        if chunk is not None:
            index[number] = offset, len(chunk)
            offset += len(chunk)
    if offset == 0:
        return None
    tail = index.tobytes()
    return b"".join([*(chunk for chunk in chunks if chunk is not None), tail, crc32c(tail).to_bytes(4, "little")])


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few kilobytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (CRC32C_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = [_table_entry(value) for value in range(256)]
