"""Tiny synthetic slides in memory, for tests of everything that reads a slide."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from wsi_attn.errors import NotEncodedError, RegionError, SlideReadError
from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.slide import BACKGROUND, EncodedTiles, Level, SlideInfo

MPP = Mpp(0.5, 0.5)


class ArraySlide:
    """An array as a slide with a pyramid.

    Parameters
    ----------
    array
        uint8 (height, width, 3): level 0.
    levels
        Downsamples; need not be whole. Sizes are rounded up, factors are the nominal ones.
    broken_regions
        `(level, Region)` in pixels of that level: reading any of it raises `SlideReadError`.
    """

    def __init__(
        self,
        array: np.ndarray,
        tile: int = 64,
        levels: Sequence[float] = (1.0,),
        mpp: Mpp | None = MPP,
        broken_regions: Iterable[tuple[int, Region]] = (),
        name: str = "synthetic.svs",
        icc_profile: bytes | None = None,
    ) -> None:
        height, width = array.shape[:2]
        self.arrays, described = [], []
        for factor in levels:
            size = Size(math.ceil(width / factor), math.ceil(height / factor))
            self.arrays.append(array if factor == 1 else cv2.resize(array, size, interpolation=cv2.INTER_AREA))
            described.append(Level(size, float(factor), float(factor), Size(tile, tile)))
        self.broken = list(broken_regions)
        self.reads = 0
        self.info = SlideInfo(
            path=Path(name),
            vendor="synthetic",
            reader="array",
            size0=Size(width, height),
            levels=tuple(described),
            mpp=mpp,
            mpp_source="file" if mpp else "none",
            mpp_note="" if mpp else "the file gives no pixel size",
            objective_power=20.0,
            compression="none",
            bounds=None,
            associated=(),
            icc_profile=icc_profile,
            fingerprint=hashlib.sha256(array.tobytes()).hexdigest(),
        )

    def read_region(self, xy0, level, size):
        """See `Slide.read_region`."""
        if not 0 <= level < len(self.arrays) or min(size) <= 0:
            raise RegionError(f"no region of size {size} on level {level}")
        self.reads += 1
        frame, array = self.info.levels[level], self.arrays[level]
        x, y = round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y)
        wanted = Region(x, y, *size)
        for broken_level, region in self.broken:
            if broken_level == level and wanted.intersection(region):
                raise SlideReadError(f"level {level}, {wanted} touches damage at {region}")
        pixels = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
        inside = wanted.intersection(Region(0, 0, *frame.size))
        if inside:
            pixels[inside.y - y : inside.y1 - y, inside.x - x : inside.x1 - x] = array[
                inside.y : inside.y1, inside.x : inside.x1
            ]
        return pixels

    def encoded_tiles(self, level: int) -> EncodedTiles:
        raise NotEncodedError("an array has no tiles")

    def close(self):
        """Nothing to release."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def stained(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Glass with an ellipse of pink, textured tissue in the middle: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(238, 246, (height, width, 1)).astype(np.uint8).repeat(3, axis=-1)
    y, x = np.mgrid[:height, :width]
    ellipse = ((x - width / 2) / (0.35 * width)) ** 2 + ((y - height / 2) / (0.35 * height)) ** 2 < 1
    tissue = np.array([200, 110, 170]) + rng.integers(-25, 26, (height, width, 3))
    picture[ellipse] = tissue[ellipse].astype(np.uint8)
    return picture
