"""Shards: their size, encoding from compressed chunks, and decoding of their index.

Shards are assembled here instead of by Zarr for two reasons: chunks arrive compressed, copied from the slide or encoded
by the decoding threads, so only compressed bytes are held; and equal chunks give equal files, even after interruptions.
The layout is the `sharding_indexed` codec of Zarr v3: chunks in row order, then the index of (offset, length) as
little-endian uint64, then its CRC-32C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Size
from wsi_attn.packed import Packed

SHARD_BYTES = 64 << 20
"""Maximum uncompressed bytes of a shard: a slide has a few hundred files, and a few shards fit in memory."""

CHANNELS = 3
ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that reads as the fill value."""

ENTRY_BYTES, CRC_BYTES = 16, 4


def shard_chunks(size: Size, tile: Size) -> tuple[int, int]:
    """Rows and columns of chunks in a shard: the whole level if it fits, otherwise nearly square."""
    rows, columns = math.ceil(size.height / tile.height), math.ceil(size.width / tile.width)
    most = max(1, SHARD_BYTES // (CHANNELS * tile.width * tile.height))
    if rows * columns <= most:
        return rows, columns
    side = math.isqrt(most)
    if rows <= side:
        return rows, min(columns, most // rows)
    if columns <= side:
        return min(rows, most // columns), columns
    return side, side


def shard_key(level: int, row: int, column: int) -> str:
    """Key of a shard in its store."""
    return f"{level}/c/0/{row}/{column}"


def shard_of(key: str) -> tuple[int, int, int]:
    """Level, row and column of a shard: inverse of `shard_key`."""
    level, _, _, row, column = key.split("/")
    return int(level), int(row), int(column)


def encode_shard(
    numbers: NDArray[np.int64], chunks: Sequence[bytes | memoryview], count: int
) -> list[bytes | memoryview]:
    """Encode a shard in parts: its chunks, its index and the checksum of the index.

    Parameters
    ----------
    numbers
        (N,): position of each chunk in the shard, row by row, increasing.
    chunks
        Their bytes, none of them empty.
    count
        Number of chunks in a full shard; those not given are absent.

    Returns
    -------
    No parts if all chunks are absent; such a shard has no file.
    """
    if not len(chunks):
        return []
    lengths = chunks.ends - chunks.starts if isinstance(chunks, Packed) else np.fromiter(map(len, chunks), np.int64)
    index = np.full((count, 2), ABSENT, "<u8")
    index[numbers, 0] = np.cumsum(lengths) - lengths
    index[numbers, 1] = lengths
    tail = index.tobytes()
    content = [chunks.view] if isinstance(chunks, Packed) else chunks
    return [*content, tail, crc32c(tail).to_bytes(CRC_BYTES, "little")]


def index_bytes(count: int) -> int:
    """Number of bytes at the end of a shard required by `decode_index`."""
    return count * ENTRY_BYTES + CRC_BYTES


def decode_index(tail: bytes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets and lengths (count,) of a shard's chunks, length 0 for absent ones.

    Raises
    ------
    ValueError : the index is truncated or does not match its checksum.
    """
    if len(tail) != index_bytes(count) or crc32c(tail[:-CRC_BYTES]) != int.from_bytes(tail[-CRC_BYTES:], "little"):
        raise ValueError("the index of the shard is damaged")
    index = np.frombuffer(tail, "<u8", count * 2).reshape(count, 2)
    present = index[:, 1] != ABSENT
    return np.where(present, index[:, 0], 0).astype(np.int64), np.where(present, index[:, 1], 0).astype(np.int64)


def crc32c(*parts: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli), the checksum of shard indexes, of whole files in the metadata, and of `verify`."""
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, np.frombuffer(part, np.uint8))  # accepts arrays but not views of bytes
    return int(value)
