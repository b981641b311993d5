"""Slide with a cache of decoded blocks, for repeated passes over the same regions."""

from __future__ import annotations

from collections.abc import Hashable

from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Region
from wsi_attn.lru import LruCache
from wsi_attn.slide import EncodedTiles, Slide, SlideBase, UInt8Array, background, paste

BLOCK = 512
"""Side of a cached block in pixels of its level: 0.75 MB, a few tiles of most slides."""


class CachedSlide(SlideBase):
    """Slide read block by block through a cache that several slides can share; pixels are unchanged.

    Parameters
    ----------
    slide
        Underlying slide; closed together with this one.
    cache
        Block cache.
    key
        Identifies the blocks of this slide in the cache.
    """

    def __init__(self, slide: Slide, cache: LruCache[UInt8Array], key: Hashable) -> None:
        self.slide, self.info = slide, slide.info
        self._cache = cache
        self._key = key

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        frame = self.info.levels[level]
        wanted = Region(round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y), *size)
        inside = wanted.intersection(Region(0, 0, *frame.size))
        pixels = background(size)
        if inside is None:
            return pixels
        try:
            for top in range(inside.y // BLOCK * BLOCK, inside.y1, BLOCK):
                for left in range(inside.x // BLOCK * BLOCK, inside.x1, BLOCK):
                    self._paste(pixels, wanted, level, Region(left, top, BLOCK, BLOCK))
        except SlideReadError:  # The damage may lie in a block but outside the region.
            return self.slide.read_region(xy0, level, size)
        return pixels

    def _paste(self, pixels: UInt8Array, wanted: Region, level: int, block: Region) -> None:
        frame = self.info.levels[level]
        key = (self._key, level, block.x, block.y)
        found = self._cache.get(key)
        if found is None:
            corner0 = (round(block.x * frame.downsample_x), round(block.y * frame.downsample_y))
            size = (min(BLOCK, frame.size.width - block.x), min(BLOCK, frame.size.height - block.y))
            found = self.slide.read_region(corner0, level, size)
            self._cache.put(key, found)
        paste(pixels, wanted, found, Region(block.x, block.y, found.shape[1], found.shape[0]))

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """Of the slide; see `Slide.encoded_tiles`."""
        return self.slide.encoded_tiles(level)

    def close(self) -> None:
        """Close the slide."""
        self.slide.close()


def uncached(slide: Slide) -> Slide:
    """Return the slide behind the cache, or the slide itself if it has no cache."""
    return slide.slide if isinstance(slide, CachedSlide) else slide
