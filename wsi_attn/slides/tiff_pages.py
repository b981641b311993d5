"""The tiled pages of a TIFF: where each compressed tile lies and what it holds. Decodes nothing.

Sizes are checked here against the length of the file, so that a copy that was cut off is said to be one, before any
reader shows a part of it as the whole.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_attn.errors import SlideTruncatedError
from wsi_attn.geometry import Size

MAX_PAGES = 256
"""Directories looked at; pyramids have a dozen, stacks of channels are refused before."""

ABSURD = 64
"""A file said to be this many times longer than it is was not cut off: the number itself is damaged."""

NDPI_FORMAT_FLAG = 65420
"""Tag of Hamamatsu files, whose directories hold 64-bit offsets in a way of their own."""

STRIP_OFFSETS, STRIP_LENGTHS, TILE_OFFSETS, TILE_LENGTHS = 273, 279, 324, 325
FIELD_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

Decode = Callable[[bytes, int], NDArray[np.uint8]]


@dataclass(frozen=True)
class TiledPage:
    """One image of a TIFF that is stored in tiles.

    Attributes
    ----------
    compression, colours
        Names of the tags' values, such as `JPEG` and `YCBCR`; the number where there is no name.
    offsets, lengths
        int64 (rows, columns): first byte and number of bytes of each tile; 0 bytes where the file has none.
    tables
        JPEG tables that the tiles share.
    decode
        tifffile's own decoder, for compressions other than JPEG: bytes and running number of a tile to
        (height, width, samples).
    """

    size: Size
    tile_size: Size
    compression: str
    colours: str
    samples: int
    bits: int
    interleaved: bool
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    tables: bytes | None
    decode: Decode | None


def is_tiff(path: Path) -> bool:
    """Whether the first bytes are those of a TIFF or BigTIFF."""
    with path.open("rb") as file:
        magic = file.read(4)
    return magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiled_page(page: Any) -> TiledPage | None:
    """What a page or frame of tifffile holds, read while its file is open; None where it has no usable tiles."""
    key = page.keyframe
    if not key.is_tiled or key.imagedepth > 1:
        return None
    planes = 1 if (interleaved := int(key.planarconfig) == 1) else key.samplesperpixel
    size, tile = Size(key.imagewidth, key.imagelength), Size(key.tilewidth, key.tilelength)
    grid = -(-size.height // tile.height), -(-size.width // tile.width)
    offsets, lengths = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    if len(offsets) != grid[0] * grid[1] * planes or len(lengths) != len(offsets):
        return None
    compression = getattr(key.compression, "name", str(key.compression))
    return TiledPage(
        size=size,
        tile_size=tile,
        compression=compression,
        colours=getattr(key.photometric, "name", str(key.photometric)),
        samples=key.samplesperpixel,
        bits=key.bitspersample,
        interleaved=interleaved,
        offsets=offsets[: grid[0] * grid[1]].reshape(grid),
        lengths=lengths[: grid[0] * grid[1]].reshape(grid),
        tables=key.jpegtables,
        decode=_decoder(key) if compression != "JPEG" and key.compression in tifffile.TIFF.DECOMPRESSORS else None,
    )


def main_pages(tiff: tifffile.TiffFile) -> Iterator[Any]:
    """Pages of the main chain of directories, the first few hundred."""
    return itertools.islice(iter(tiff.pages), MAX_PAGES)


def refuse_cut_off(path: Path) -> None:
    """Make sure that the chain of directories and the lists of tiles lie within the file.

    Raises
    ------
    SlideTruncatedError : they do not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for end in _ends_of_directories(file, size):
            refuse_beyond(path, size, end)


def refuse_tiles_beyond(path: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Make sure that all tiles lie within the file; raises as `refuse_cut_off`."""
    ends = np.where(lengths > 0, offsets + lengths, 0)
    if offsets.size and min(offsets.min(), lengths.min()) < 0:
        raise SlideTruncatedError(f"{path} is damaged: its list of tiles holds impossible numbers; copy it again")
    if ends.size:
        refuse_beyond(path, path.stat().st_size, int(ends.max()))


def refuse_beyond(path: Path, size: int, end: int) -> None:
    """Raise where a file of `size` bytes should reach to `end`."""
    if end > ABSURD * max(size, 1 << 16):
        raise SlideTruncatedError(f"{path} is damaged: it points to byte {end} and has {size}; copy it again")
    if end > size:
        raise SlideTruncatedError(f"{path} is cut off: {size} of at least {end} bytes are there; copy it again")


def _decoder(page: Any) -> Decode:
    decode = page.decode  # looks into the file the first time, so it is fetched now

    def pixels(data: bytes, index: int) -> NDArray[np.uint8]:
        return np.asarray(decode(data, index)[0][0])  # (1, height, width, samples)

    return pixels


def _ends_of_directories(file: BinaryIO, size: int) -> Iterator[int]:
    """First byte after each directory, and after each list of offsets and lengths of tiles."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    first, count_format, entry_bytes, offset_format = (8, "Q", 20, "Q") if big else (4, "H", 12, "I")
    offset_bytes = struct.calcsize(offset_format)
    if len(head) < first + offset_bytes:
        yield first + offset_bytes
        return
    (place,) = struct.unpack_from(order + offset_format, head, first)
    seen: set[int] = set()
    while place and place not in seen and len(seen) < MAX_PAGES:
        seen.add(place)
        count_bytes = struct.calcsize(count_format)
        yield place + count_bytes
        file.seek(place)
        (count,) = struct.unpack(order + count_format, file.read(count_bytes))
        yield place + count_bytes + count * entry_bytes
        entries = file.read(count * entry_bytes)
        for index in range(count):
            tag, field, number = struct.unpack_from(f"{order}HH{offset_format}", entries, index * entry_bytes)
            (value,) = struct.unpack_from(order + offset_format, entries, (index + 1) * entry_bytes - offset_bytes)
            if tag == NDPI_FORMAT_FLAG:
                return
            values_bytes = FIELD_BYTES.get(field, 0) * number
            if tag in (STRIP_OFFSETS, STRIP_LENGTHS, TILE_OFFSETS, TILE_LENGTHS) and values_bytes > offset_bytes:
                yield value + values_bytes
        after = file.read(offset_bytes)
        if len(after) < offset_bytes:  # some writers leave the last pointer out
            return
        (place,) = struct.unpack(order + offset_format, after)
