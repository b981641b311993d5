"""Whether the tiles of a level decode here to what OpenSlide shows: one tile is compared before the first use.

Tags lie: slides exist whose photometric tag contradicts the streams, and then decoders differ in whom they believe.
OpenSlide is what viewers show, so it decides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError
from wsi_attn.geometry import Region
from wsi_attn.slide import UInt8Array
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.tiff_pages import TiledPage

TOLERANCE = 2
"""Grey levels by which two sound decoders may differ: JPEG is equal to the bit with libjpeg-turbo on both sides, other
builds and the real-valued wavelet of JPEG 2000 round by one. A wrong colour transform is off by tens even on glass."""

CANDIDATES = 3
"""Tiles tried, largest first, before a level whose tiles cannot be read counts as unknown."""

ON_GRID = 1 / 300
"""Pixels by which OpenSlide may shift what it paints and still copy it; it interpolates from 1/256."""

MIN_SIDE = 8


def disagreement(
    reference: OpenSlideReader, level: int, area: Region, page: TiledPage, decode: Callable[[int, int], UInt8Array]
) -> str:
    """Why the tiles cannot be trusted; empty where they show what OpenSlide shows.

    Parameters
    ----------
    area
        What the page covers of the level, in pixels of that.
    decode
        Pixels of the tile at (row, column); raises `SlideReadError`.
    """
    frame = reference.info.levels[level]
    tile = page.tile_size
    columns = _first_on_grid(reference.shifts(level, np.arange(area.x, area.x1)), tile.width)
    rows = _first_on_grid(reference.shifts(level, np.arange(area.y, area.y1)), tile.height)
    grid = page.lengths[: len(rows), : len(columns)]
    usable = (rows[:, None] >= 0) & (columns[None] >= 0) & (grid > 0)
    if not usable.any():
        return "" if not grid.any() else "none of its tiles can be compared with OpenSlide"
    failure = ""
    order = np.argsort(np.where(usable, grid, 0), axis=None)[::-1][:CANDIDATES]
    for row, column in zip(*np.unravel_index(order, grid.shape), strict=True):
        if not usable[row, column]:
            continue
        x, y = int(columns[column]), int(rows[row])
        right, bottom = min((int(column) + 1) * tile.width, area.width), min((int(row) + 1) * tile.height, area.height)
        try:
            ours = decode(int(row), int(column))
            corner0 = (round((area.x + x) * frame.downsample_x), round((area.y + y) * frame.downsample_y))
            theirs = reference.read_region(corner0, level, (right - x, bottom - y))
        except SlideReadError as error:
            failure = str(error.__cause__ or error)
            continue
        left, top = x - int(column) * tile.width, y - int(row) * tile.height
        window = ours[top : top + theirs.shape[0], left : left + theirs.shape[1]]
        difference = int(np.abs(window.astype(np.int16) - theirs).max())
        return f"they decode to other pixels than OpenSlide's, by up to {difference}" if difference > TOLERANCE else ""
    return f"none of its largest tiles can be used: {failure}"


def _first_on_grid(shifts: NDArray[np.float64], tile: int) -> NDArray[np.int64]:
    """(tiles,): first place in each tile that OpenSlide paints without interpolation, -1 where there is none."""
    count = -(-len(shifts) // tile)
    good = np.zeros(count * tile, np.bool_)
    good[: len(shifts)] = np.abs(shifts) < ON_GRID
    tiles = good.reshape(count, tile)
    first = tiles.argmax(axis=1) + np.arange(count) * tile
    ends = np.minimum((np.arange(count) + 1) * tile, len(shifts))
    room = (ends - first >= MIN_SIDE) | (first % tile == 0)
    return np.where(tiles.any(axis=1) & room, first, -1)
