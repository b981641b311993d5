"""Compressed tiles of one TIFF level; neighbours are read at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import TileDecodeError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Size
from wsi_attn.slide.encoding import TileEncoding
from wsi_attn.slide.jpeg_decoding import encode_jpeg

RECODE_QUALITY = 95
"""JPEG quality of recompressed tiles; chroma keeps its resolution."""

RECODABLE = ("RGB", "YCBCR")


@dataclass(eq=False)
class TiffTiles:
    """Compressed tiles of one level as stored in the file; see `EncodedTiles`.

    A JPEG stream that states another colour space than the level would decode to wrong colours with `encoding`, so
    it is decoded and recompressed.

    Attributes
    ----------
    file
        File to read; it is not closed.
    offsets, lengths
        int64 (rows, columns).
    """

    file: FileBytes
    encoding: TileEncoding
    tile_size: Size
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._recoded: set[int] = set()

    def read(self, cells: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
        """Read the bytes of tiles by (row, column); see `EncodedTiles.read`."""
        places = np.asarray(cells, np.int64).reshape(-1, 2)
        rows, columns = places[:, 0], places[:, 1]
        offsets, lengths = self.offsets[rows, columns], np.maximum(self.lengths[rows, columns], 0)
        packed = self.file.read_many(offsets, lengths)
        other = np.flatnonzero(~self.encoding.covers(packed) & (lengths > 0)).tolist()
        if not other:
            return packed
        found: list[bytes | memoryview] = list(packed)
        for index in other:
            found[index] = self._recode(found[index], int(offsets[index]))
        return found

    @property
    def recoded(self) -> int:
        """See `EncodedTiles.recoded`."""
        return len(self._recoded)

    def _recode(self, data: bytes | memoryview, offset: int) -> bytes:
        """Recompress the tile in the colour space of the level; empty if it cannot be decoded."""
        self._recoded.add(offset)
        if self.encoding.colorspace not in RECODABLE:
            return b""
        try:
            pixels = self.encoding.of_stream(data).decode(data)
        except TileDecodeError:
            return b""
        return encode_jpeg(pixels, RECODE_QUALITY, self.encoding.colorspace)
