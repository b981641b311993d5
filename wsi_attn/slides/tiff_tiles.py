"""The compressed tiles of one level of a TIFF, neighbours in one read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_attn.encoding import TileEncoding
from wsi_attn.file_bytes import FileBytes, read_ranges
from wsi_attn.geometry import Size


class TiffTiles:
    """Compressed tiles of one level as they lie in the file; see `EncodedTiles`.

    Parameters
    ----------
    file
        Read from, never closed.
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
        self._file = file
        self._offsets = offsets

    def read(self, cells: Sequence[tuple[int, int]]) -> list[bytes | memoryview]:
        """Bytes of tiles by (row, column); see `EncodedTiles.read`."""
        if not len(cells):
            return []
        places = np.asarray(cells, np.int64)
        rows, columns = places[:, 0], places[:, 1]
        offsets, lengths = self._offsets[rows, columns], self.lengths[rows, columns]
        found: list[bytes | memoryview] = [b""] * len(cells)
        wanted = np.flatnonzero(lengths > 0)
        ranges = zip(wanted.tolist(), offsets[wanted].tolist(), lengths[wanted].tolist(), strict=True)
        for index, data in read_ranges(self._file.read, ranges):
            found[index] = data
        return found
