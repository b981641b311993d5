"""Pixels of one level from its tiles; only touched tiles are decoded, and cached for neighbouring reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError, TileDecodeError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Region
from wsi_attn.lru import LruCache
from wsi_attn.slide import BACKGROUND, Level, UInt8Array, background
from wsi_attn.slide.encoding import TileEncoding
from wsi_attn.slides.tiff_levels import LevelSource
from wsi_attn.slides.tiff_pages import TiledPage
from wsi_attn.slides.tiff_tiles import TiffTiles

Data = TypeVar("Data")

SMALL_TILE = 64 * 64
"""Maximum pixels of an uncompressed tile for which a row of tiles is read and converted at once."""


class TiledLevel:
    """One level, read tile by tile and thread-safe; `area` is the part covered by its page, in its pixels.

    Parameters
    ----------
    source
        Level source with a page.
    cache
        Cache shared by the levels of a slide.
    """

    def __init__(
        self, path: Path, index: int, frame: Level, source: LevelSource, file: FileBytes, cache: LruCache[UInt8Array]
    ) -> None:
        if source.page is None:
            raise ValueError("a level without tiles of its own")
        self.page: TiledPage = source.page
        (x, y), (across, down) = source.corner, self.page.size
        self.area = Region(x, y, min(across, frame.size.width - x), min(down, frame.size.height - y))
        self._path, self._index, self._file, self._cache = path, index, file, cache
        self._encoding = source.encoding
        self._stated = {source.encoding.colorspace: source.encoding} if source.encoding else {}
        width, height = self.page.tile_size
        self._grid = -(-self.area.height // height), -(-self.area.width // width)

    def read(self, x: int, y: int, width: int, height: int) -> UInt8Array:
        """Read a region in pixels of the level; `BACKGROUND` outside.

        Raises
        ------
        SlideReadError : a touched tile cannot be read; the message names it.
        """
        tile = self.page.tile_size
        wanted = Region(x - self.area.x, y - self.area.y, width, height)
        inside = wanted.intersection(Region(0, 0, self.area.width, self.area.height))
        if inside == wanted and (width, height) == tile and not wanted.x % tile.width and not wanted.y % tile.height:
            return self._alone(wanted.y // tile.height, wanted.x // tile.width)
        pixels = np.empty((height, width, 3), np.uint8) if inside == wanted else background((width, height))
        if inside is None:
            return pixels
        first, end = inside.x // tile.width, -(-inside.x1 // tile.width)
        joined = end - first if self.page.raw is not None and tile.width * tile.height <= SMALL_TILE else 1
        for row in range(inside.y // tile.height, -(-inside.y1 // tile.height)):
            for column in range(first, end, joined):
                place = Region(column * tile.width, row * tile.height, tile.width * joined, tile.height)
                if part := place.intersection(inside):
                    if joined > 1:
                        found = self._raw_row(row, first, end)
                    else:  # A fully read tile is not needed again by neighbouring reads.
                        found = self._tile(row, column, keep=part != place)
                    pixels[part.within(wanted)] = found[part.within(place)]
        return pixels

    def _raw_row(self, row: int, first: int, end: int) -> UInt8Array:
        """Read neighbouring uncompressed tiles of one row at once, (tile height, tiles * tile width, 3).

        Reading tiles of 16 px one by one would cost a hundred times their decoding.
        """
        page, (width, height) = self.page, self.page.tile_size
        if page.raw is None:
            raise ValueError("tiles that are compressed")
        offsets, lengths = page.offsets[row, first:end], page.lengths[row, first:end]
        nbytes = width * height * page.samples
        if (lengths != nbytes).any():
            return np.concatenate([self.decode(row, column) for column in range(first, end)], axis=1)
        samples = self._file.read_many(offsets, lengths).data.reshape(end - first, height, width, page.samples)
        return page.raw.rgb(samples.transpose(1, 0, 2, 3).reshape(height, -1, page.samples))

    def tiles(self) -> TiffTiles:
        """Return the compressed tiles; requires a source with an encoding."""
        if self._encoding is None:
            raise ValueError("tiles that only tifffile decodes")
        rows, columns = self._grid
        page = self.page
        return TiffTiles(
            self._file, self._encoding, page.tile_size, page.offsets[:rows, :columns], page.lengths[:rows, :columns]
        )

    def decode(self, row: int, column: int, encoding: TileEncoding | None = None) -> UInt8Array:
        """Decode one whole tile including padding; raises like `read`.

        `encoding` overrides what the file and the stream state.
        """
        page, (width, height) = self.page, self.page.tile_size
        length = int(page.lengths[row, column])
        if not length:
            return np.full((height, width, 3), BACKGROUND, np.uint8)
        number = row * page.lengths.shape[1] + column
        try:
            if page.decode_planes is not None:
                planes = [self._bytes(*places, row, column) for places in page.planes]
                pixels = self._by_tifffile(page.decode_planes, planes, number)
            else:
                data = self._bytes(page.offsets, page.lengths, row, column)
                if encoding or self._encoding:
                    pixels = (encoding or self._encoding_of(data)).decode(data)
                else:
                    pixels = self._by_tifffile(page.decode, data, number)
            if pixels.shape != (height, width, 3):
                raise TileDecodeError(f"{pixels.shape[1]} x {pixels.shape[0]} px, not {width} x {height}")
        except (TileDecodeError, SlideReadError) as error:
            raise SlideReadError(
                f"{self._path}: level {self._index}, tile in column {column}, row {row}: {error}"
            ) from error
        return pixels

    def _bytes(self, offsets: NDArray[np.int64], lengths: NDArray[np.int64], row: int, column: int) -> bytes:
        return self._file.read(int(offsets[row, column]), int(lengths[row, column]))

    def _by_tifffile(self, decode: Callable[[Data, int], UInt8Array] | None, data: Data, number: int) -> UInt8Array:
        """Decode a tile, or the planes of one, with a decoder that raises many types of exceptions on damaged data."""
        if decode is None:
            raise TileDecodeError(f"no decoder for {self.page.compression}")
        try:
            return decode(data, number)
        except Exception as error:
            raise TileDecodeError(f"{self.page.compression}: {error}") from error

    def _encoding_of(self, data: bytes) -> TileEncoding:
        """Return the encoding of one stream; what it states itself has priority."""
        if self._encoding is None:
            raise ValueError("tiles without an encoding")
        encoding = self._encoding.of_stream(data)
        return self._stated.setdefault(encoding.colorspace, encoding)

    def _alone(self, row: int, column: int) -> UInt8Array:
        kept = self._cache.get((self._index, row, column))
        return self.decode(row, column) if kept is None else kept.copy()

    def _tile(self, row: int, column: int, *, keep: bool) -> UInt8Array:
        key = (self._index, row, column)
        pixels = self._cache.get(key)
        if pixels is None:
            pixels = self.decode(row, column)
            if keep:
                self._cache.put(key, pixels)
        return pixels
