"""Bytes of a file read from any thread, and the compressed tiles of one level, neighbours in one read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_attn.encoding import TileEncoding
from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Size

GAP_BYTES = 1 << 16
"""Bytes between two tiles that are cheaper to read along than to skip."""

READ_BYTES = 1 << 24
"""What one read takes at most; the tiles handed out keep it in memory while they live."""


class FileBytes:
    """A file whose bytes are read without a position, so that threads share it without a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1  # for closing, should opening fail
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes.

        Raises
        ------
        SlideReadError : they are not there, or the file is closed.
        """
        if self._fd < 0:
            raise SlideReadError(f"{self.path} is closed")
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:  # a read may end early, at a signal or on some network file systems
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise SlideReadError(f"{self.path}: bytes {offset} to {offset + length} lie beyond its end")
                data += more
        except (OSError, OverflowError) as error:
            if isinstance(error, SlideReadError):
                raise
            raise SlideReadError(f"{self.path}: bytes {offset} to {offset + length}: {error}") from error
        return data

    def close(self) -> None:
        """Release the file; closing twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


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
        order = wanted[np.argsort(offsets[wanted], kind="stable")]
        starts, ends = offsets[order].tolist(), (offsets + lengths)[order].tolist()
        indices = order.tolist()
        first, count = 0, len(indices)
        while first < count:
            begin, end, last = starts[first], ends[first], first + 1
            while last < count and starts[last] - end <= GAP_BYTES and ends[last] - begin <= READ_BYTES:
                end = max(end, ends[last])
                last += 1
            data = memoryview(self._file.read(begin, end - begin))
            for position in range(first, last):
                found[indices[position]] = data[starts[position] - begin : ends[position] - begin]
            first = last
        return found
