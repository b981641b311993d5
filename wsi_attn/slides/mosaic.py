"""Several images as one slide, laid out in a grid: the photographs of one culture or one patient as one field.

The grid has ceil(sqrt(n)) columns and is filled row by row in the order given; every cell is as large as the largest
image, an image lies in the top left corner of its cell, and what no image covers is background. Images are decoded when
a region first touches them, and kept while memory allows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from wsi_attn.errors import NotEncodedError, RegionError, SlideNotFoundError, SlideReadError
from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.slide import BACKGROUND, EncodedTiles, Level, Slide, SlideInfo, UInt8Array
from wsi_attn.slides.image_reader import EXIF_ORIENTATION
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.tile_cache import TileCache

CACHE_BYTES = 128 << 20
"""Decoded images that a mosaic keeps by itself."""

UPRIGHT_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
"""Formats whose header says the size that the reader will give; of others the reader itself is asked."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class Mosaic:
    """Images of one row of a manifest as one slide of one level; a `Slide`.

    Parameters
    ----------
    paths
        At least one image; level 0 of a pyramid counts.
    mpp
        Microns per pixel of all of them, where the files do not say it.
    cache
        Where decoded images are kept; one of its own by default.

    Raises
    ------
    SlideNotFoundError, SlideUnsupportedError : an image is not there or cannot be opened; the message names it.
    """

    def __init__(self, paths: Sequence[Path], mpp: Mpp | None = None, cache: TileCache | None = None) -> None:
        self.paths = tuple(paths)
        self._cache = TileCache(CACHE_BYTES) if cache is None else cache
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
            objective_power=None,
            compression="none",
            bounds=None,
            associated=(),
            icc_profile=None,
            fingerprint=hashlib.sha256("".join(map(fingerprint_of, self.paths)).encode()).hexdigest(),
            properties={"mosaic.images": "; ".join(str(path) for path in self.paths)},
        )

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Pixels of one region; see `Slide.read_region`."""
        if level != 0 or min(size) <= 0:
            raise RegionError(f"{self.info.path} has no region of size {size} on level {level}")
        wanted = Region(*xy0, *size)
        pixels = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
        for index, region in enumerate(self.regions):
            shared = wanted.intersection(region)
            if shared:
                image = self._image(index)
                rows = slice(shared.y - region.y, shared.y1 - region.y)
                columns = slice(shared.x - region.x, shared.x1 - region.x)
                pixels[shared.y - wanted.y : shared.y1 - wanted.y, shared.x - wanted.x : shared.x1 - wanted.x] = image[
                    rows, columns
                ]
        return pixels

    def encoded_tiles(self, level: int) -> EncodedTiles:
        """Never: the images are decoded as wholes; see `Slide.encoded_tiles`."""
        raise NotEncodedError("several images as one field have no tiles")

    def close(self) -> None:
        """Nothing to release: files are open only while they are decoded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _image(self, index: int) -> UInt8Array:
        """Level 0 of one image, decoded unless it is still there."""
        path, region = self.paths[index], self.regions[index]
        pixels = self._cache.get(path)
        if pixels is None:
            with open_slide(path) as slide:
                pixels = _whole(slide)
            if pixels.shape[:2] != (region.height, region.width):
                raise SlideReadError(
                    f"{path} was {region.width} x {region.height} px when it was opened and is not now"
                )
            self._cache.put(path, pixels)
        return pixels


def layout(sizes: Sequence[tuple[int, int]]) -> tuple[Region, ...]:
    """Where each image of (width, height) lies in the field; see the module."""
    columns = math.ceil(math.sqrt(len(sizes)))
    width, height = np.max(sizes, axis=0).tolist()
    return tuple(Region(index % columns * width, index // columns * height, *size) for index, size in enumerate(sizes))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header where that is enough; raises as `open_slide`."""
    if not path.exists():
        raise SlideNotFoundError(f"There is no file {path}")
    with suppress(Exception), Image.open(path, formats=UPRIGHT_FORMATS) as image:
        known = (
            image.format != "PNG" or "exif" in image.info
        )  # else Pillow would decode a PNG to look behind its pixels
        turned = known and image.getexif().get(EXIF_ORIENTATION) in TURNED
        return (image.height, image.width) if turned else (image.width, image.height)
    with open_slide(path) as slide:
        return slide.info.size0


def _whole(slide: Slide) -> UInt8Array:
    return slide.read_region((0, 0), 0, slide.info.size0)
