"""Slides whose orientation tag states that the stored image is flipped or rotated.

Whole pages of all levels are reoriented. The RGBA interface of libtiff, and thus OpenSlide, reorients each tile in
place instead; tifffile and libvips return the image as stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wsi_attn.geometry import Mpp, Region, Size
from wsi_attn.slide import Level, Slide, SlideBase, SlideInfo, UInt8Array

ORIENTATION_PROPERTY = "tiff.orientation"


class Turn(NamedTuple):
    """Reorientation of a stored image: reverse columns, reverse rows, then swap axes."""

    columns: bool
    rows: bool
    axes: bool


TURNS = {
    1: Turn(False, False, False),
    2: Turn(True, False, False),
    3: Turn(True, True, False),
    4: Turn(False, True, False),
    5: Turn(False, False, True),
    6: Turn(False, True, True),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
"""Reorientation by value of the orientation tag of TIFF and EXIF."""


def upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Reorient stored pixels (height, width, 3) according to the tag; the result is contiguous."""
    turn = TURNS[orientation]
    turned = pixels[:: -1 if turn.rows else 1, :: -1 if turn.columns else 1]
    return np.ascontiguousarray(turned.transpose(1, 0, 2) if turn.axes else turned)


class OrientedSlide(SlideBase):
    """Slide reoriented as a whole.

    Parameters
    ----------
    slide
        The stored slide; owned and closed together with this one.
    orientation
        Value of the orientation tag, 2 to 8.
    """

    def __init__(self, slide: Slide, orientation: int) -> None:
        self._slide, self._orientation, self._turn = slide, orientation, TURNS[orientation]
        self.info = self._turned_info(slide.info)
        self.not_encoded = f"its orientation tag is {orientation}, so its tiles are stored in another orientation"

    def read_region(self, xy0: tuple[int, int], level: int, size: tuple[int, int]) -> UInt8Array:
        """Read the pixels of one region; see `Slide.read_region`."""
        self.check_region(level, size)
        frame, stored = self.info.levels[level], self._slide.info.levels[level]
        x, y = round(xy0[0] / frame.downsample_x), round(xy0[1] / frame.downsample_y)
        place = self._stored_place(Region(x, y, *size), stored.size)
        corner0 = round(place.x * stored.downsample_x), round(place.y * stored.downsample_y)
        return upright(self._slide.read_region(corner0, level, (place.width, place.height)), self._orientation)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()

    def _stored_place(self, region: Region, stored: Size) -> Region:
        """Map a region of the upright level to the stored level."""
        x, y, width, height = region
        if self._turn.axes:
            x, y, width, height = y, x, height, width
        if self._turn.columns:
            x = stored.width - x - width
        if self._turn.rows:
            y = stored.height - y - height
        return Region(x, y, width, height)

    def _turned_place(self, region: Region, stored: Size) -> Region:
        x, y, width, height = region
        if self._turn.columns:
            x = stored.width - x - width
        if self._turn.rows:
            y = stored.height - y - height
        return Region(y, x, height, width) if self._turn.axes else Region(x, y, width, height)

    def _turned_info(self, info: SlideInfo) -> SlideInfo:
        swap = self._turn.axes
        levels = tuple(
            Level(_turned(level.size, swap), level.downsample_y, level.downsample_x, _turned(level.tile_size, swap))
            if swap
            else level
            for level in info.levels
        )
        return replace(
            info,
            size0=levels[0].size,
            levels=levels,
            mpp=Mpp(info.mpp.y, info.mpp.x) if info.mpp and swap else info.mpp,
            bounds=self._turned_place(info.bounds, info.size0) if info.bounds else None,
            properties={**info.properties, ORIENTATION_PROPERTY: f"{self._orientation} (applied)"},
        )


def _turned(size: Size, swap: bool) -> Size:
    return Size(size.height, size.width) if swap else size
