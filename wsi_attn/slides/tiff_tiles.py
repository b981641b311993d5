"""Compressed tiles of one TIFF level; neighbours are read at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import TileDecodeError
from wsi_attn.file_bytes import FileBytes, read_ranges
from wsi_attn.geometry import Size
from wsi_attn.slide.encoding import TileEncoding

RECODE_QUALITY = 95
"""JPEG quality of recompressed tiles; chroma keeps its resolution."""

RECODABLE = ("RGB", "YCBCR")


class TiffTiles:
    """Compressed tiles of one level as stored in the file; see `EncodedTiles`.

    A JPEG stream that states another colour space than the level would decode to wrong colours with `encoding`, so
    it is decoded and recompressed.

    Parameters
    ----------
    file
        File to read; it is not closed.
    offsets, lengths
        int64 (rows, columns).
    """

    def __init__(
        self,
        file: FileBytes,
        encoding: TileEncoding,
        tile_size: Size,
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        self.encoding = encoding
        self.tile_size = tile_size
        self.lengths = lengths
        self._recoded: set[int] = set()
        self._file = file
        self._offsets = offsets

    def read(self, cells: Sequence[tuple[int, int]]) -> list[bytes | memoryview]:
        """Read the bytes of tiles by (row, column); see `EncodedTiles.read`."""
        if not len(cells):
            return []
        places = np.asarray(cells, np.int64)
        rows, columns = places[:, 0], places[:, 1]
        offsets, lengths = self._offsets[rows, columns], self.lengths[rows, columns]
        found: list[bytes | memoryview] = [b""] * len(cells)
        wanted = np.flatnonzero(lengths > 0)
        ranges = zip(wanted.tolist(), offsets[wanted].tolist(), lengths[wanted].tolist(), strict=True)
        for index, data in read_ranges(self._file.read, ranges):
            found[index] = (
                data if self.encoding.of_stream(data) is self.encoding else self._recode(data, int(offsets[index]))
            )
        return found

    @property
    def recoded(self) -> int:
        """See `EncodedTiles.recoded`."""
        return len(self._recoded)

    def _recode(self, data: bytes | memoryview, offset: int) -> bytes:
        """Recompress the tile in the colour space of the level; empty if it cannot be decoded."""
        import imagecodecs

        self._recoded.add(offset)
        if self.encoding.colorspace not in RECODABLE:
            return b""
        try:
            pixels = self.encoding.of_stream(data).decode(data)
        except TileDecodeError:
            return b""
        return bytes(
            imagecodecs.jpeg8_encode(
                pixels,
                level=RECODE_QUALITY,
                colorspace="RGB",
                outcolorspace=self.encoding.colorspace,
                subsampling="444",
            )
        )
