"""Tile pyramids for the browser: the slide's own levels, or DeepZoom.

The slide's own levels keep their tile grids, so stored tiles are served unchanged. If no level is coarse enough to show
the whole slide in a few tiles, or two levels are far apart, additional levels are computed on demand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.slide import Level

SIDE = 512
"""Side of rendered tiles in pixels: few requests, and a tile is encoded within milliseconds."""

LARGEST_SIDE, SMALLEST_SIDE = 2048, 64
"""Stored tiles outside these limits are not served: strips, whole images, tiny tiles."""

FAR_APART = 4.5
"""Maximum ratio between neighbouring levels without an intermediate one: a screen would need too many tiles."""


@dataclass(frozen=True)
class TileLevel:
    """One resolution served by the viewer.

    `native` is the slide level with these pixels, None if they are computed; `passthrough` states that the tiles of the
    grid are the stored ones.
    """

    frame: Frame
    tile: Size
    native: int | None
    passthrough: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return -(-self.frame.size.width // self.tile.width), -(-self.frame.size.height // self.tile.height)

    def region(self, column: int, row: int) -> Region | None:
        """Region of a tile in pixels of the level, clipped; None if there is no such tile."""
        columns, rows = self.grid
        if not (0 <= column < columns and 0 <= row < rows):
            return None
        whole = Region(column * self.tile.width, row * self.tile.height, *self.tile)
        return whole.intersection(Region(0, 0, *self.frame.size))


def tile_levels(size0: Size, levels: tuple[Level, ...], stored: Mapping[int, Size]) -> tuple[TileLevel, ...]:
    """Levels to serve, coarsest first.

    Parameters
    ----------
    stored
        Tile size of each slide level whose compressed tiles can be served.
    """
    found: list[TileLevel] = []
    for index, level in enumerate(levels):
        factor = max(level.downsample_x, level.downsample_y)
        while found and factor / _factor(found[-1].frame) > FAR_APART:
            found.append(_computed(size0, _factor(found[-1].frame) * 2))
        grid = stored.get(index)
        passthrough = grid is not None and min(grid) >= SMALLEST_SIDE and max(grid) <= LARGEST_SIDE
        tile = grid if grid is not None and passthrough else Size(*(_multiple(side) for side in level.tile_size))
        frame = Frame(level.size, level.downsample_x, level.downsample_y)
        found.append(TileLevel(frame, tile, index, passthrough))
    while max(found[-1].frame.size) > SIDE:
        found.append(_computed(size0, _factor(found[-1].frame) * 2))
    return tuple(reversed(found))


def _factor(frame: Frame) -> float:
    return max(frame.downsample_x, frame.downsample_y)


def _computed(size0: Size, factor: float, side: int = SIDE) -> TileLevel:
    return TileLevel(Frame.covering(size0, factor, factor), Size(side, side), None, passthrough=False)


def _multiple(side: int) -> int:
    """The largest multiple of a stored tile's side up to `SIDE`, so that no tile is decoded twice."""
    return side * (SIDE // side) if SMALLEST_SIDE <= side <= SIDE else SIDE


class DeepZoom:
    """The DeepZoom pyramid of a slide: factors of two from 1 pixel to level 0, square tiles without overlap."""

    def __init__(self, size0: Size, side: int) -> None:
        self.size0, self.side = size0, side
        self.highest = max(0, math.ceil(math.log2(max(size0))))

    def level(self, number: int) -> TileLevel | None:
        """One of its levels; 0 is one pixel, `highest` is level 0 of the slide. None if there is no such level."""
        if not 0 <= number <= self.highest:
            return None
        return _computed(self.size0, float(2 ** (self.highest - number)), self.side)

    def descriptor(self) -> str:
        """The `.dzi` file."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" '
            f'TileSize="{self.side}"><Size Width="{self.size0.width}" Height="{self.size0.height}"/></Image>\n'
        )


def same_tiles(wanted: TileLevel, levels: tuple[TileLevel, ...]) -> int | None:
    """Index of the passthrough level with the same pixels in the same grid as a level of another pyramid."""
    for index, level in enumerate(levels):
        if level.passthrough and level.frame == wanted.frame and level.tile == wanted.tile:
            return index
    return None
