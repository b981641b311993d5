"""Open slides of a run, with one cache of their decoded pixels."""

from __future__ import annotations

from wsi_attn.data.blocks import CachedSlide
from wsi_attn.data.manifest import Row
from wsi_attn.data.sources import open_row
from wsi_attn.lru import LruCache
from wsi_attn.slide import Slide, SlideInfo, UInt8Array
from wsi_attn.slides.image_reader import ArraySlide
from wsi_attn.slides.mosaic import Mosaic

OPEN_SLIDES = 32
"""Slides and stores held open; each holds a file and, of a TIFF, a few decoded tiles."""


class SlideCache:
    """Open slides of a run by row. All share one cache of decoded pixels that is bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self.pixels: LruCache[UInt8Array] = LruCache(limit)
        self._infos: dict[int, SlideInfo] = {}
        self._open: LruCache[Slide] = LruCache(OPEN_SLIDES, lambda slide: 1)  # closed when the last reader releases it

    def get(self, row: Row) -> Slide:
        """Return the slide of a row, opening it if needed. The cache closes it, not the caller."""
        if (slide := self._open.get(row.number)) is not None:
            return slide
        if row.number in self._infos and (kept := self.pixels.get(("image", row.number))) is not None:
            return ArraySlide(kept, self._infos[row.number])
        slide = open_row(row, self.pixels)
        if isinstance(slide, ArraySlide):
            self._infos[row.number] = slide.info
            self.pixels.put(("image", row.number), slide.pixels)
            return slide
        kept_slide = slide if isinstance(slide, Mosaic) else CachedSlide(slide, self.pixels, row.number)
        self._open.put(row.number, kept_slide)
        return kept_slide
