"""Tiled pages of a TIFF: location and format of each compressed tile, without decoding.

Sizes are checked against the length of the file, so that a truncated copy is detected before any reader
shows a part of it as the whole.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_attn.errors import SlideTruncatedError
from wsi_attn.geometry import Size
from wsi_attn.slide.jpeg_stream import colorspace_of, has_frame
from wsi_attn.slides.tiff_places import proven_lengths
from wsi_attn.slides.tiff_samples import (
    JPEG_COMPRESSION,
    ORIENTATION,
    UNCOMPRESSED,
    Decode,
    DecodePlanes,
    Page,
    Photometry,
    key_of,
    orientation_of,
    planes_decoder,
    raw_samples,
    segment_decoder,
    tag_name,
)

MAX_PAGES = 256
"""Maximum directories examined; pyramids have a dozen, and channel stacks are refused earlier."""

MAX_DIRECTORIES = 1 << 16
"""Maximum directories followed to check that the chain ends."""

ABSURD = 64
"""If the stated length exceeds the file size by this factor, the number is damaged and the file not truncated."""

MAX_TILE_BYTES = 64 << 20
"""Maximum decoded size, since every thread decodes whole tiles; the largest tiles seen in slides have 16 megabytes."""

NDPI_FORMAT_FLAG = 65420
"""Tag of Hamamatsu files, whose directories store 64-bit offsets in a private layout."""

SUB_DIRECTORIES = 330
NEEDED_TAGS = {270, 273, 279, 324, 325, SUB_DIRECTORIES, 347, 34675}
"""Description, offsets and lengths of strips and tiles, coarser levels, JPEG tables, colour profile."""

FIELD_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

SAMPLED_STREAMS, STREAM_HEADER_BYTES = 8, 4096
"""Number of JPEG tiles per page whose headers are read to determine their format, and the bytes read of each."""

OFFSET_FORMATS = {4: "I", 13: "I", 16: "Q", 18: "Q"}

STRUCTURE_TAGS = {256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339}
"""Tags that decide how samples become pixels; readers replace one of an unknown type by its default."""


@dataclass(frozen=True)
class TiledPage:
    """One tiled image of a TIFF.

    Attributes
    ----------
    compression, colours
        Names of the tag values, such as `JPEG` and `YCBCR`; the number if it has no name.
    offsets, lengths
        int64 (rows, columns): first byte and number of bytes of each tile; 0 bytes for missing tiles.
    tables
        JPEG tables shared by the tiles.
    decode
        Decodes the bytes and index of a tile to pixels; None if unsupported.
    raw
        Layout of uncompressed samples, if the bytes of a tile are its samples.
    stated
        Colour spaces stated by a sample of its JPEG streams; includes None for
        streams that state none.
    orientation
        Value of the orientation tag.
    planes
        Offsets and lengths of the tiles of each plane if samples are stored in separate planes; the first are `offsets`
        and `lengths`.
    decode_planes
        Like `decode`, for such pages.
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
    raw: Photometry | None = None
    stated: frozenset[str | None] = frozenset()
    orientation: int = 1
    planes: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...] = ()
    decode_planes: DecodePlanes | None = None


def is_tiff(path: Path) -> bool:
    """Return whether a file starts with the signature of TIFF or BigTIFF."""
    with path.open("rb") as file:
        magic = file.read(4)
    return magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiled_page(page: Page) -> TiledPage | None:
    """Return the tiled page of a tifffile page or frame while its file is open; None if it has no usable tiles."""
    key = key_of(page)
    if not key.is_tiled or key.imagedepth > 1:
        return None
    planes = 1 if (interleaved := int(key.planarconfig) == 1) else key.samplesperpixel
    size, tile = Size(key.imagewidth, key.imagelength), Size(key.tilewidth, key.tilelength)
    grid = -(-size.height // tile.height), -(-size.width // tile.width)
    offsets, lengths = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    lengths = proven_lengths(offsets, lengths, packed=int(key.compression) != UNCOMPRESSED)
    if len(offsets) != grid[0] * grid[1] * planes or len(lengths) != len(offsets):
        return None
    apart = offsets.reshape(planes, *grid), lengths.reshape(planes, *grid)
    return TiledPage(
        size=size,
        tile_size=tile,
        compression=tag_name(key.compression),
        colours=tag_name(key.photometric),
        samples=key.samplesperpixel,
        bits=key.bitspersample,
        interleaved=interleaved,
        offsets=apart[0][0],
        lengths=apart[1][0],
        tables=key.jpegtables,
        decode=segment_decoder(key) if interleaved else None,
        raw=raw_samples(key),
        stated=stated_colours(page.parent.filehandle, offsets, lengths)
        if int(key.compression) == JPEG_COMPRESSION
        else frozenset(),
        orientation=orientation_of(page),
        planes=() if interleaved else tuple(zip(apart[0], apart[1], strict=True)),
        decode_planes=None if interleaved else planes_decoder(key),
    )


def stated_colours(
    file: BinaryIO | tifffile.FileHandle, offsets: NDArray[np.int64], lengths: NDArray[np.int64]
) -> frozenset[str | None]:
    """Return the colour spaces stated by a sample of the JPEG streams of a level; see `TiledPage.stated`."""
    present = np.flatnonzero(lengths > 0)
    chosen = present[np.linspace(0, len(present) - 1, min(SAMPLED_STREAMS, len(present))).astype(int)]
    found = set()
    for index in chosen.tolist():
        file.seek(int(offsets[index]))
        head = file.read(min(int(lengths[index]), STREAM_HEADER_BYTES))
        if not has_frame(head):
            head += file.read(int(lengths[index]) - len(head))
        found.add(colorspace_of(head))
    return frozenset(found)


def main_pages(tiff: tifffile.TiffFile) -> Iterator[Page]:
    """Yield the first few hundred pages of the main directory chain."""
    for page in itertools.islice(iter(tiff.pages), MAX_PAGES):
        yield page if page.keyframe is not None else page.aspage()  # A frame that the OME-XML does not mention.


def refuse_cut_off(path: Path) -> None:
    """Check that the directory chain and the tile lists lie within the file and that the chain ends.

    Raises
    ------
    SlideTruncatedError : they do not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for end in _ends_of_directories(file, path):
            refuse_beyond(path, size, end)


def refuse_absurd_tiles(path: Path, page: Page) -> None:
    """Check that a tile of a page is small enough; see `refuse_large_tiles`."""
    key = key_of(page)
    if key.is_tiled:
        refuse_large_tiles(path, Size(int(key.tilewidth), int(key.tilelength)), int(key.samplesperpixel))


def refuse_large_tiles(path: Path, tile: Size, samples: int) -> None:
    """Check that every thread can decode a tile; raises like `refuse_cut_off`.

    OpenSlide would try to allocate it and abort the process on failure.
    """
    if tile.width * tile.height * samples > MAX_TILE_BYTES:
        raise SlideTruncatedError(
            f"{path} has tiles of {tile.width} x {tile.height} px, more than {MAX_TILE_BYTES >> 20} MB each: it is "
            "damaged, copy it again, or convert it to tiles of at most 4096 x 4096 px"
        )


def refuse_contradiction(path: Path, page: Page, *, strips: bool) -> None:
    """Check that the size of a page matches the number of its tiles, or of its strips if `strips` is set.

    Raises
    ------
    SlideTruncatedError : it does not, or the page is empty.
    """
    key = key_of(page)
    width, height = int(key.imagewidth), int(key.imagelength)
    if not (key.is_tiled or strips):
        return
    if min(width, height) < 1 or (key.is_tiled and min(key.tilewidth, key.tilelength) < 1):
        raise SlideTruncatedError(f"{path} is damaged: an image of {width} x {height} px; copy it again")
    planes = 1 if int(key.planarconfig) == 1 else int(key.samplesperpixel)
    if key.is_tiled:
        depth = -(-int(key.imagedepth) // max(1, int(key.tiledepth)))
        count, what = -(-width // key.tilewidth) * -(-height // key.tilelength) * depth * planes, "tiles"
    else:
        rows = min(max(1, int(key.rowsperstrip)), height)
        count, what = -(-height // rows) * int(key.imagedepth) * planes, "strips"
    if key.jpegtables is not None and not isinstance(key.jpegtables, bytes):
        raise SlideTruncatedError(f"{path} is damaged: its JPEG tables are not bytes; copy it again")
    turned = key.tags.valueof(ORIENTATION, 1)
    if not isinstance(turned, int) or not 0 <= turned <= 8:  # some writers state 0
        raise SlideTruncatedError(f"{path} is damaged: its orientation tag is {turned}; copy it again")
    for listed in _listed(page, count):
        if listed != count:
            raise SlideTruncatedError(
                f"{path} is damaged: an image of {width} x {height} px has {count} {what}, but the file lists "
                f"{listed}; copy it again"
            )


def _listed(page: Page, count: int) -> Iterator[int]:
    """Yield the numbers of offsets and lengths in the file; tifffile cuts lists of more than `count` strips."""
    for found, tags in ((page.dataoffsets, (324, 273)), (page.databytecounts, (325, 279))):
        tag = next(filter(None, map(page.tags.get, tags)), None) if isinstance(page, tifffile.TiffPage) else None
        surplus = tag is not None and tag.count > count and any(tag.value[count:])  # some writers append zeros
        yield tag.count if tag is not None and surplus else len(found)


def refuse_tiles_beyond(path: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Check that all tiles lie within the file; raises like `refuse_cut_off`."""
    ends = np.where(lengths > 0, offsets + lengths, 0)
    if offsets.size and min(offsets.min(), lengths.min()) < 0:
        raise SlideTruncatedError(f"{path} is damaged: its tile list contains impossible numbers; copy it again")
    if ends.size:
        refuse_beyond(path, path.stat().st_size, int(ends.max()))


def refuse_beyond(path: Path, size: int, end: int) -> None:
    """Raise if a file of `size` bytes should extend to `end`."""
    if end > ABSURD * max(size, 1 << 16):
        raise SlideTruncatedError(f"{path} is damaged: it refers to byte {end} but has {size} bytes; copy it again")
    if end > size:
        raise SlideTruncatedError(f"{path} is truncated: it has {size} of at least {end} bytes; copy it again")


@dataclass(frozen=True)
class _Layout:
    """Number format: classic TIFF or BigTIFF, either byte order."""

    order: str
    count: str
    offset: str
    entry_bytes: int
    first_at: int

    @classmethod
    def of(cls, head: bytes) -> _Layout:
        order = "<" if head[:2] == b"II" else ">"
        return cls(order, "Q", "Q", 20, 8) if head[2:4] in (b"+\0", b"\0+") else cls(order, "H", "I", 12, 4)

    @property
    def offset_bytes(self) -> int:
        return struct.calcsize(self.offset)

    def number(self, format_: str, data: bytes, at: int = 0) -> int:
        return int(struct.unpack_from(self.order + format_, data, at)[0])


def _ends_of_directories(file: BinaryIO, path: Path) -> Iterator[int]:
    """Yield the end of each directory and of each of its required values that are stored elsewhere.

    The caller stops at an end beyond the file, so that the next read lies inside. Beyond `MAX_PAGES`
    directories only the chain is followed.

    Raises
    ------
    SlideTruncatedError : the directory chain is a loop, or a tag has an unknown type.
    """
    head = file.read(16)
    layout = _Layout.of(head)
    yield layout.first_at + layout.offset_bytes
    waiting, seen = [layout.number(layout.offset, head, layout.first_at)], set[int]()
    next_of = dict[int, int]()
    while waiting and len(seen) < MAX_DIRECTORIES:
        place = waiting.pop()
        if not place or place in seen:
            continue
        seen.add(place)
        count_bytes = struct.calcsize(layout.count)
        yield place + count_bytes
        file.seek(place)
        count = layout.number(layout.count, file.read(count_bytes))
        yield place + count_bytes + count * layout.entry_bytes
        if len(seen) > MAX_PAGES:
            file.seek(count * layout.entry_bytes, io.SEEK_CUR)
            entries = b""
        else:
            entries = file.read(count * layout.entry_bytes)
        after = file.read(layout.offset_bytes)  # Some writers omit the last pointer.
        for at in range(0, len(entries), layout.entry_bytes):
            tag, field = layout.number("H", entries, at), layout.number("H", entries, at + 2)
            if tag == NDPI_FORMAT_FLAG:
                return
            if tag in STRUCTURE_TAGS and field not in FIELD_BYTES:
                raise SlideTruncatedError(f"{path} is damaged: tag {tag} has an unknown type {field}; copy it again")
            values = layout.number(layout.offset, entries, at + 4)
            value_at = at + layout.entry_bytes - layout.offset_bytes
            value_bytes = FIELD_BYTES.get(field, 0) * values
            if tag not in NEEDED_TAGS:
                continue
            data = entries[value_at : value_at + layout.offset_bytes]
            if value_bytes > layout.offset_bytes:
                start = layout.number(layout.offset, data)
                yield start + value_bytes
                if tag == SUB_DIRECTORIES:
                    file.seek(start)
                    data = file.read(value_bytes)
            if tag == SUB_DIRECTORIES and (format_ := OFFSET_FORMATS.get(field)):
                waiting += [layout.number(format_, data, struct.calcsize(format_) * index) for index in range(values)]
        if len(after) == layout.offset_bytes:
            following = next_of[place] = layout.number(layout.offset, after)
            while following in seen:  # Subdirectories may be listed and chained: only a way back is a loop.
                if following == place:
                    raise SlideTruncatedError(f"{path} is damaged: its directories form a loop; copy it again")
                following = next_of.get(following, 0)
            waiting.append(next_of[place])
