"""Several images as one slide, arranged in a grid, for example the photographs of one culture or patient.

The grid has ceil(sqrt(n)) columns and is filled row by row in the given order; every cell is as large as the largest
image, images lie in the top-left corner of their cells, and the rest is background. Images are decoded when
a region first touches them and cached while memory allows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_attn.errors import SlideNotFoundError, SlideReadError
from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.lru import LruCache
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import Level, Slide, SlideBase, SlideInfo, UInt8Array, background, paste
from wsi_attn.slides.image_reader import EXIF_ORIENTATION
from wsi_attn.slides.open import open_slide

CACHE_BYTES = 128 << 20
"""Default cache size of a mosaic for decoded images."""

UPRIGHT_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
"""Formats whose header states the size of the decoded image; for others the reader is opened."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class Mosaic(SlideBase):
    """`Slide` with one level made of the images of one manifest row.

    Parameters
    ----------
    paths
        At least one image; of a pyramid, level 0 is used.
    mpp
        Pixel size of all images in µm if the files do not state it.
    cache
        Cache of decoded images; each mosaic has its own by default.

    Raises
    ------
    SlideNotFoundError, SlideUnsupportedError : an image is missing or cannot be opened; the message names it.
    """

    not_encoded = "a field of several images has no tiles"

    def __init__(
        self, paths: Sequence[Path], mpp: Mpp | None = None, cache: LruCache[UInt8Array] | None = None
    ) -> None:
        self.paths = tuple(paths)
        self._cache = LruCache(CACHE_BYTES) if cache is None else cache
        sizes = [image_size(path) for path in self.paths]
        self.regions = layout(sizes)
        size0 = Size(max(region.x1 for region in self.regions), max(region.y1 for region in self.regions))
        self.info = SlideInfo(
            path=self.paths[0],
            vendor="mosaic",
            reader="mosaic",
            size0=size0,
            levels=(Level(size0, 1.0, 1.0, Size(*np.max(sizes, axis=0).tolist())),),
            mpp=mpp,
            mpp_source="user" if mpp else "none",
            mpp_note="" if mpp else "several images as one field have the pixel size that the manifest gives",
            compression="none",
            fingerprint=hashlib.sha256("".join(map(fingerprint_of, self.paths)).encode()).hexdigest(),
            properties={"mosaic.images": "; ".join(str(path) for path in self.paths)},
        )

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        wanted, pixels = Region(*xy0, *size), background(size)
        for index, region in enumerate(self.regions):
            if wanted.intersection(region):
                paste(pixels, wanted, self._image(index), region)
        return pixels

    def _image(self, index: int) -> UInt8Array:
        """Return level 0 of one image, decoded unless it is cached."""
        path, region = self.paths[index], self.regions[index]
        pixels = self._cache.get(path)
        if pixels is None:
            with open_slide(path) as slide:
                pixels = _whole(slide)
            if pixels.shape[:2] != (region.height, region.width):
                raise SlideReadError(
                    f"{path} was {region.width} x {region.height} px when it was opened and has changed since"
                )
            self._cache.put(path, pixels)
        return pixels


def layout(sizes: Sequence[tuple[int, int]]) -> tuple[Region, ...]:
    """Return the region of each image of (width, height) in the field; see the module docstring."""
    columns = math.ceil(math.sqrt(len(sizes)))
    width, height = np.max(sizes, axis=0).tolist()
    return tuple(Region(index % columns * width, index // columns * height, *size) for index, size in enumerate(sizes))


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image, from its header if possible; raises like `open_slide`."""
    if not path.exists():
        raise SlideNotFoundError(f"file not found: {path}")
    with suppress(Exception), Image.open(path, formats=UPRIGHT_FORMATS) as image:
        known = (
            image.format != "PNG" or "exif" in image.info
        )  # Otherwise Pillow would decode a PNG to read the chunks after its pixels.
        turned = known and image.getexif().get(EXIF_ORIENTATION) in TURNED
        return (image.height, image.width) if turned else (image.width, image.height)
    with open_slide(path) as slide:
        return slide.info.size0


def _whole(slide: Slide) -> UInt8Array:
    return slide.read_region((0, 0), 0, slide.info.size0)
