"""Strict decoding of the JPEG data that OpenSlide reads from NDPI files.

OpenSlide stops after the last row of pixels and does not notice data left over, often the only sign of damage: it
returns altered pixels without an error. A page of an NDPI file is one JPEG stream, divided by restart markers into
segments that can be decoded separately. The segments under a region are therefore decoded once, strictly and at an
eighth of their size, before OpenSlide reads the region.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError, TileDecodeError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.geometry import Size
from wsi_attn.slide.jpeg_decoding import EOI, damage, prove_jpeg

MAGNIFICATION, FOCAL_PLANE, MCU_STARTS = 65421, 65424, 65426
"""Tags of NDPI: objective power, not positive for labels and maps; distance from the focal plane that OpenSlide reads;
offsets of the segments."""

FACTORS = (1, 2, 4, 8)
"""Factors by which OpenSlide reduces a page while decoding, to provide levels without a page."""

JPEG = 7
MAX_SIDE = 65500
"""Largest side of a JPEG image that libjpeg decodes."""

BYTES_PER_PIXEL = 6
"""More than a JPEG segment needs; larger ones have a damaged length and are not read."""

TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Page:
    size: Size
    segment: Size
    header: bytes
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    proven: NDArray[np.bool_]

    @property
    def columns(self) -> int:
        return -(-self.size.width // self.segment.width)


class NdpiProof:
    """Prove the JPEG data of regions of an NDPI file; thread-safe. Other files have nothing to prove.

    A level is proven through the smallest page from which OpenSlide can derive it. Pages whose restart markers tifffile
    cannot interpret are not proven. One flag per segment records which are sound.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pages: tuple[_Page, ...] | None = None
        self._file: FileBytes | None = None

    def prove(self, level: int, level_size: Size, xy: tuple[float, float], size: tuple[int, int]) -> None:
        """Decode the segments under a region that have not been proven yet.

        Parameters
        ----------
        level
            Number of the level, for messages.
        level_size
            Size of the level, pixels.
        xy, size
            Corner and size of the region, pixels of the level; parts outside the level are ignored.

        Raises
        ------
        SlideReadError : a segment is damaged, or the index of the segments cannot be read.
        """
        pages, file = self._opened()
        found = _source_of(level_size, pages)
        if found is None:
            return
        page, factor = found
        left, right = _cells(xy[0] * factor, (xy[0] + size[0]) * factor, page.size.width, page.segment.width)
        top, bottom = _cells(xy[1] * factor, (xy[1] + size[1]) * factor, page.size.height, page.segment.height)
        for row in range(top, bottom):
            for column in range(left, right):
                number = row * page.columns + column
                if page.proven[number]:
                    continue
                try:
                    _prove_segment(file, page, number)
                except (TileDecodeError, SlideReadError) as error:
                    x, y = column * page.segment.width // factor, row * page.segment.height // factor
                    raise SlideReadError(
                        f"{self._path}: level {level}, JPEG segment at row {row}, column {column} "
                        f"(from pixel {x}, {y} of the level): {error}"
                    ) from error
                page.proven[number] = True

    def close(self) -> None:
        """Release the file; may be called repeatedly."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    def _opened(self) -> tuple[tuple[_Page, ...], FileBytes]:
        with self._lock:
            if self._pages is None or self._file is None:
                try:
                    self._file = FileBytes(self._path)
                    self._pages = _pages_of(self._path)
                except SlideReadError:
                    raise
                except Exception as error:  # tifffile raises many exception types on damaged files.
                    raise SlideReadError(f"{self._path}: the index of its JPEG data is unreadable: {error}") from error
            return self._pages, self._file


def _pages_of(path: Path) -> tuple[_Page, ...]:
    """Return the pages of levels that can be proven, by increasing width."""
    try:
        tiff = tifffile.TiffFile(path)
    except tifffile.TiffFileError:
        return ()  # VMS and VMU, which OpenSlide also attributes to Hamamatsu.
    with tiff:
        if not tiff.is_ndpi:
            return ()
        pages = [_page_of(page) for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    return tuple(sorted((page for page in pages if page is not None), key=lambda page: page.size))


def _page_of(page: tifffile.TiffPage) -> _Page | None:
    if page.compression != JPEG or page.tags.valueof(FOCAL_PLANE, 0) != 0 or page.tags.valueof(MAGNIFICATION, 1) <= 0:
        return None
    size = Size(page.imagewidth, page.imagelength)
    offsets = np.array(page.dataoffsets, np.int64)
    lengths = np.array(page.databytecounts, np.int64)
    if page.jpegheader is None:  # One stream without restart markers.
        if MCU_STARTS in page.tags or len(offsets) != 1 or max(size) > MAX_SIDE:
            return None
        return _Page(size, size, b"", offsets, lengths, np.zeros(1, np.bool_))
    found = _Page(
        size, Size(page.tilewidth, page.tilelength), page.jpegheader, offsets, lengths, np.zeros(len(offsets), np.bool_)
    )
    rows = -(-size.height // found.segment.height)
    return found if len(offsets) == rows * found.columns else None


def _source_of(level_size: Size, pages: tuple[_Page, ...]) -> tuple[_Page, int] | None:
    """Return the page from which OpenSlide decodes a level, and the factor by which it reduces the page."""
    for page in pages:
        for factor in FACTORS:
            if (page.size.width // factor, page.size.height // factor) == level_size:
                return page, factor
    return None


def _cells(start: float, end: float, extent: int, step: int) -> tuple[int, int]:
    """Return the first and the last plus one of the segments on one axis that a region touches."""
    first, last = max(0, math.floor(start + TOLERANCE)), min(extent, math.ceil(end - TOLERANCE))
    return first // step, -(-last // step)


def _prove_segment(file: FileBytes, page: _Page, number: int) -> None:
    offset, length = int(page.offsets[number]), int(page.lengths[number])
    if not 2 < length <= page.segment.width * page.segment.height * BYTES_PER_PIXEL + MAX_SIDE:
        raise damage(b"", f"a length of {length} bytes is impossible")
    data = file.read(offset, length)
    if page.header and data[-2] == 0xFF and 0xD0 <= data[-1] <= 0xD7:  # a restart marker
        data = data[:-2] + EOI
    prove_jpeg(page.header + data)
