"""Pixels of one level from its tiles; only touched tiles are decoded, and cached for neighbouring reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_attn.errors import SlideReadError, TileDecodeError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Region
from wsi_attn.slide import BACKGROUND, Level, UInt8Array
from wsi_attn.slide.encoding import TileEncoding
from wsi_attn.slides.tiff_levels import LevelSource
from wsi_attn.slides.tiff_pages import TiledPage
from wsi_attn.slides.tiff_tiles import TiffTiles
from wsi_attn.slides.tile_cache import TileCache

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
        self, path: Path, index: int, frame: Level, source: LevelSource, file: FileBytes, cache: TileCache
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
        x, y = x - self.area.x, y - self.area.y
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.area.width), min(y + height, self.area.height)
        inside = (left, top, right, bottom) == (x, y, x + width, y + height)
        if inside and (width, height) == tile and not x % tile.width and not y % tile.height:
            return self._alone(y // tile.height, x // tile.width)
        region = np.empty((height, width, 3), np.uint8)
        if not inside:
            region[:] = BACKGROUND
        if left >= right or top >= bottom:
            return region
        if self.page.raw is not None and tile.width * tile.height <= SMALL_TILE:
            columns = left // tile.width, -(-right // tile.width)
            for row in range(top // tile.height, -(-bottom // tile.height)):
                y0, y1 = max(row * tile.height, top), min((row + 1) * tile.height, bottom)
                strip = self._raw_row(row, *columns)
                first = columns[0] * tile.width
                region[y0 - y : y1 - y, left - x : right - x] = strip[
                    y0 - row * tile.height : y1 - row * tile.height, left - first : right - first
                ]
            return region
        for row in range(top // tile.height, -(-bottom // tile.height)):
            for column in range(left // tile.width, -(-right // tile.width)):
                x0, y0 = column * tile.width, row * tile.height
                x1, y1 = min(x0 + tile.width, right), min(y0 + tile.height, bottom)
                part = slice(max(y0, top), y1), slice(max(x0, left), x1)
                whole = (y1 - part[0].start, x1 - part[1].start) == (tile.height, tile.width)
                pixels = self._tile(
                    row, column, keep=not whole
                )  # A fully read tile is not needed again by neighbouring reads.
                region[part[0].start - y : y1 - y, part[1].start - x : x1 - x] = pixels[
                    part[0].start - y0 : y1 - y0, part[1].start - x0 : x1 - x0
                ]
        return region

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
        try:
            if page.decode_planes is not None:
                pixels = self._joined(row, column)
            else:
                data = self._file.read(int(page.offsets[row, column]), length)
                pixels = encoding.decode(data) if encoding else self._decoded(data, row, column)
            if pixels.shape != (height, width, 3):
                raise TileDecodeError(f"{pixels.shape[1]} x {pixels.shape[0]} px, not {width} x {height}")
        except (TileDecodeError, SlideReadError) as error:
            raise SlideReadError(
                f"{self._path}: level {self._index}, tile in column {column}, row {row}: {error}"
            ) from error
        return pixels

    def _joined(self, row: int, column: int) -> UInt8Array:
        """Decode a tile whose samples are stored in separate planes."""
        page = self.page
        if page.decode_planes is None:
            raise ValueError("a page of interleaved samples")
        planes = [
            self._file.read(int(offsets[row, column]), int(lengths[row, column])) for offsets, lengths in page.planes
        ]
        try:
            return page.decode_planes(planes, row * page.lengths.shape[1] + column)
        except Exception as error:  # As in `_decoded`.
            raise TileDecodeError(f"{page.compression}: {error}") from error

    def _decoded(self, data: bytes, row: int, column: int) -> UInt8Array:
        page = self.page
        if self._encoding is not None:
            return self._encoding_of(data).decode(data)
        if page.decode is None:
            raise TileDecodeError(f"no decoder for {page.compression}")
        try:
            pixels = page.decode(data, row * page.lengths.shape[1] + column)
        except Exception as error:  # The decoders of tifffile raise many exception types on damaged data.
            raise TileDecodeError(f"{page.compression}: {error}") from error
        return pixels

    def _encoding_of(self, data: bytes) -> TileEncoding:
        """Return the encoding of one stream; what it states itself has priority."""
        encoding = self._encoding.of_stream(data) if self._encoding else None
        if encoding is None:
            raise ValueError("tiles without an encoding")
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
