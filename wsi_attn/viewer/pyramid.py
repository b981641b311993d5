"""How a slide is cut into the tiles that a browser asks for: along its own levels, or as DeepZoom prescribes.

The slide's own levels come first, in their own grids, so that stored tiles can go out as they are. Where no level is
coarse enough to show the whole slide in a few tiles, or two lie far apart, levels are added and computed on demand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.slide import Level

SIDE = 512
"""Pixels along a side of tiles that we render: few requests, and one is still encoded in milliseconds."""

LARGEST_SIDE, SMALLEST_SIDE = 2048, 64
"""Stored tiles beyond these are no tiles for a browser: strips, whole images, crumbs."""

FAR_APART = 4.5
"""Two levels whose factors differ by more get another between them: a screen would take too many tiles of the finer."""


@dataclass(frozen=True)
class TileLevel:
    """One resolution that the viewer serves.

    `native` is the slide's own level of these pixels, None where they are computed; `passthrough` says that the tiles
    of the grid are the stored ones.
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
        """A tile in pixels of the level, cut off at its edges; None where there is no such tile."""
        columns, rows = self.grid
        if not (0 <= column < columns and 0 <= row < rows):
            return None
        whole = Region(column * self.tile.width, row * self.tile.height, *self.tile)
        return whole.intersection(Region(0, 0, *self.frame.size))


def tile_levels(size0: Size, levels: tuple[Level, ...], stored: Mapping[int, Size]) -> tuple[TileLevel, ...]:
    """The levels to serve, coarsest first.

    Parameters
    ----------
    stored
        Tile size of each of the slide's levels whose compressed tiles can be handed out.
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


def _computed(size0: Size, factor: float) -> TileLevel:
    return TileLevel(Frame.covering(size0, factor, factor), Size(SIDE, SIDE), None, passthrough=False)


def _multiple(side: int) -> int:
    """The multiple of a stored tile's side that is nearest below `SIDE`, so that no tile is decoded twice."""
    return side * (SIDE // side) if SMALLEST_SIDE <= side <= SIDE else SIDE


class DeepZoom:
    """The DeepZoom pyramid of a slide: factors of two from 1 pixel to level 0, square tiles without overlap."""

    def __init__(self, size0: Size, side: int) -> None:
        self.size0, self.side = size0, side
        self.highest = max(0, math.ceil(math.log2(max(size0))))

    def level(self, number: int) -> TileLevel | None:
        """One of its levels; 0 is one pixel, `highest` is level 0 of the slide. None where there is no such level."""
        if not 0 <= number <= self.highest:
            return None
        factor = float(2 ** (self.highest - number))
        return TileLevel(
            Frame.covering(self.size0, factor, factor), Size(self.side, self.side), None, passthrough=False
        )

    def descriptor(self) -> str:
        """The `.dzi` file."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" '
            f'TileSize="{self.side}"><Size Width="{self.size0.width}" Height="{self.size0.height}"/></Image>\n'
        )


def same_tiles(wanted: TileLevel, levels: tuple[TileLevel, ...]) -> int | None:
    """Index of the passthrough level that has the same pixels in the same grid as another pyramid's level."""
    for index, level in enumerate(levels):
        if level.passthrough and level.frame == wanted.frame and level.tile == wanted.tile:
            return index
    return None
