"""Slide whose levels are read tile by tile from its files, each after a comparison with OpenSlide."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from wsi_attn.errors import NotEncodedError, SlideReadError
from wsi_attn.file_bytes import FileBytes
from wsi_attn.lru import LruCache
from wsi_attn.slide import EncodedTiles, SlideBase, SlideInfo, UInt8Array
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.tiff_level import TiledLevel
from wsi_attn.slides.tiff_levels import LevelSource
from wsi_attn.slides.tiff_reference import disagreement

CACHE_BYTES = 48 << 20
"""Cache size of decoded tiles for neighbouring reads: about 250 tiles of 256 px."""


class TiledReader(SlideBase):
    """Reads levels from tiles if possible, otherwise with OpenSlide; owns the files and the OpenSlide handle.

    `orientation` is the common orientation tag of its levels; pixels are returned as stored.

    Parameters
    ----------
    sources
        Pixel source of each level of `info`.
    files
        File of each level; levels may share one.
    openslide
        OpenSlide reader, if it supports the slide.
    """

    orientation = 1

    def __init__(
        self,
        info: SlideInfo,
        sources: Sequence[LevelSource],
        files: Sequence[FileBytes],
        openslide: OpenSlideReader | None,
    ) -> None:
        self.info, self._sources, self._files, self._openslide = info, sources, files, openslide
        self._cache: LruCache[UInt8Array] = LruCache(CACHE_BYTES)
        self._levels = [
            TiledLevel(info.path, index, level, source, file, self._cache) if source.page is not None else None
            for index, (level, source, file) in enumerate(zip(info.levels, sources, files, strict=True))
        ]
        self._doubts: list[str | None] = [None] * len(self._levels)
        self._checking = [threading.Lock() for _ in self._levels]
        self._closed = False

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        if self._closed:
            raise SlideReadError(f"{self.info.path} is closed")
        tiled = self._levels[level]
        left_to_openslide = tiled is None or (bool(self._mismatch(level)) and not self._wrong_in_openslide(level))
        if self._openslide is not None and left_to_openslide and self._openslide_has(level):
            return self._openslide.read_region(xy0, level, size)
        if tiled is None:
            raise SlideReadError(f"{self.info.path}: level {level}: {self._sources[level].not_copied}")
        frame = self.info.levels[level]
        return tiled.read(round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y), *size)

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """Return the compressed tiles of a level; see `Slide.encoded_tiles`."""
        self.check_level(level)
        if self._closed:
            raise SlideReadError(f"{self.info.path} is closed")
        tiled, source = self._levels[level], self._sources[level]
        if reason := source.not_copied or self._mismatch(level):
            raise NotEncodedError(reason)
        if tiled is None:  # A source without a reason has a page.
            raise NotEncodedError("OpenSlide reads this level")
        return tiled.tiles()

    def _mismatch(self, level: int) -> str:
        """Return why the tiles of a level are not used; empty if they are. Determined once, before the first use."""
        found = self._doubts[level]
        if found is None:
            with self._checking[level]:
                found = self._doubts[level]
                if found is None:
                    found = self._doubts[level] = self._examine(level)
        return found

    def _examine(self, level: int) -> str:
        tiled = self._levels[level]
        if tiled is None:
            return self._sources[level].not_copied
        source = self._sources[level]
        comparable = source.encoding is not None and self.orientation == 1  # OpenSlide may be wrong in all other cases.
        if self._openslide is not None and self._openslide_has(level) and comparable:
            return disagreement(self._openslide, level, tiled, source.tagged)
        return ""

    def _wrong_in_openslide(self, level: int) -> bool:
        """Return whether OpenSlide decodes wrong colours or reorients each tile in place."""
        source = self._sources[level]
        return self.orientation != 1 or source.tagged not in (None, source.encoding)

    def _openslide_has(self, level: int) -> bool:
        if self._openslide is None:
            return False
        theirs = self._openslide.info.levels
        return level < len(theirs) and theirs[level].size == self.info.levels[level].size

    def close(self) -> None:
        """Release the file."""
        self._closed = True
        self._cache.clear()
        for file in self._files:
            file.close()
        if self._openslide is not None:
            self._openslide.close()
