"""Sizes, points, regions and pixel sizes, and the conversions between frames.

Points and sizes are `(x, y)` and `(width, height)`; a suffix `0` means level-0 pixels. Conversions are named
target-from-source. Origins are rounded down and extents up, so a converted region always covers its source. Arrays
elsewhere are `[row, column]`; only this module converts between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Extent in pixels of a given level."""

    width: int
    height: int


class Point(NamedTuple):
    """Position in pixels of a given level, with the origin at the top left."""

    x: int
    y: int


ORIGIN = Point(0, 0)
"""The top left corner of a slide."""


STATED_MPP = 0.001, 10_000.0
"""Range of pixel sizes that a user can state, in µm; at others, the size of views overflows."""


class Mpp(NamedTuple):
    """Microns per pixel along both axes, never rounded to a magnification."""

    x: float
    y: float

    @classmethod
    def parse(cls, text: str) -> Mpp:
        """Parse one number for both axes or two, `X` or `X,Y`: 0 for unknown, otherwise within `STATED_MPP`.

        Raises
        ------
        ValueError : the text is neither, has a decimal comma, or is out of range; the message states which.
        """
        parts = text.replace(";", ",").split(",")
        if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
            whole, fraction = (part.strip() for part in parts)
            raise ValueError(
                f"{text!r} has a decimal comma or two integers: write {whole}.{fraction}, or "
                f"{whole}.0,{fraction}.0 for two axes"
            )
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or not all(0 <= number < math.inf for number in numbers):
            raise ValueError(f"{text!r} is not one or two positive numbers, X or X,Y")
        least, most = STATED_MPP
        if any(number and not least <= number <= most for number in numbers):
            raise ValueError(f"{text!r} is no pixel size in µm: it must be from {least:g} to {most:g}")
        return cls(numbers[0], numbers[-1])

    def scaled(self, factor: float) -> Mpp:
        """Pixel size of a view whose pixels are `factor` times larger."""
        return Mpp(self.x * factor, self.y * factor)


class Region(NamedTuple):
    """Axis-aligned rectangle, top-left corner and extent, in pixels of a given level."""

    x: int
    y: int
    width: int
    height: int

    @property
    def x1(self) -> int:
        """First column to the right of the region."""
        return self.x + self.width

    @property
    def y1(self) -> int:
        """First row below the region."""
        return self.y + self.height

    def intersection(self, other: Region) -> Region | None:
        """The intersection with another region; None if it is empty."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.x1, other.x1) - x, min(self.y1, other.y1) - y
        return Region(x, y, width, height) if width > 0 and height > 0 else None

    def within(self, outer: Region) -> tuple[slice, slice]:
        """Rows and columns of the region in an array of `outer`, which contains it."""
        return slice(self.y - outer.y, self.y1 - outer.y), slice(self.x - outer.x, self.x1 - outer.x)

    def split(self, width: int, height: int) -> Iterator[Region]:
        """Parts of at most this extent, row by row."""
        for y in range(self.y, self.y1, height):
            for x in range(self.x, self.x1, width):
                yield Region(x, y, min(width, self.x1 - x), min(height, self.y1 - y))

    def quarters(self) -> Iterator[Region]:
        """Up to four parts, halves along each axis."""
        return self.split(-(-self.width // 2), -(-self.height // 2))


@dataclass(frozen=True)
class Frame:
    """A raster in level-0 coordinates: its size, and the number of level-0 pixels per pixel.

    A level, a low-resolution view, a tissue mask and an attention map are all frames; the factors need not be integers
    or equal along the axes.
    """

    size: Size
    downsample_x: float
    downsample_y: float

    @classmethod
    def covering(cls, size0: Size, downsample_x: float, downsample_y: float) -> Frame:
        """The smallest frame with these factors that covers all of `size0`."""
        width = max(1, math.ceil(size0.width / downsample_x - 1e-6))
        height = max(1, math.ceil(size0.height / downsample_y - 1e-6))
        return cls(Size(width, height), downsample_x, downsample_y)

    def region0_from(self, x: int, y: int, width: int, height: int) -> Region:
        """Level-0 region that covers a region of this frame."""
        x0, y0 = math.floor(x * self.downsample_x), math.floor(y * self.downsample_y)
        x1 = math.ceil((x + width) * self.downsample_x)
        y1 = math.ceil((y + height) * self.downsample_y)
        return Region(x0, y0, x1 - x0, y1 - y0)

    def region_from0(self, region0: Region) -> Region:
        """Region of this frame that covers a level-0 region."""
        x, y = math.floor(region0.x / self.downsample_x), math.floor(region0.y / self.downsample_y)
        x1 = math.ceil(region0.x1 / self.downsample_x)
        y1 = math.ceil(region0.y1 / self.downsample_y)
        return Region(x, y, x1 - x, y1 - y)


def tile_origins(extent: int, tile: int, stride: int) -> list[int]:
    """Origins along one axis of the minimum number of tiles that cover `extent` from 0 with this stride.

    The last tile may extend beyond the end; with `stride == tile` every pixel is covered exactly once.
    """
    count = 1 + max(0, math.ceil((extent - tile) / stride))
    return [index * stride for index in range(count)]
