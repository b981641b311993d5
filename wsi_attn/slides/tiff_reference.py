"""Comparison of a level with OpenSlide: one tile is compared before the first use.

A page may have the size of a level and still not be that level. OpenSlide knows how vendors compose levels, so after a
difference OpenSlide reads the level. The comparison is not conclusive if OpenSlide cannot read the tile, nor for
colours if the photometric tag contradicts the streams: OpenSlide follows the tag, but the streams are correct.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import SlideReadError
from wsi_attn.slide import UInt8Array
from wsi_attn.slide.encoding import TileEncoding
from wsi_attn.slides.openslide_reader import OpenSlideReader
from wsi_attn.slides.tiff_level import TiledLevel
from wsi_attn.slides.tiff_pages import TiledPage

TOLERANCE = 2
"""Grey levels by which two correct decoders may differ: JPEG is bit-identical with libjpeg-turbo on both sides; other
builds and the real-valued wavelet of JPEG 2000 differ by one. A wrong colour transform differs by tens even on
glass."""

CANDIDATES = 3
"""Maximum number of tiles compared, largest first, if they are damaged or OpenSlide cannot read them."""

ON_GRID = 1 / 300
"""Maximum shift in pixels at which OpenSlide still copies pixels; it interpolates from 1/256."""

MIN_SIDE = 8


def disagreement(reference: OpenSlideReader, level: int, tiled: TiledLevel, tagged: TileEncoding | None = None) -> str:
    """Return why the tiles of a level are not used; empty if they agree with OpenSlide.

    Parameters
    ----------
    tagged
        Encoding according to the photometric tag, which OpenSlide uses even if the streams contradict it.
    """
    frame, area, page = reference.info.levels[level], tiled.area, tiled.page
    tile = page.tile_size
    columns = _first_on_grid(reference.shifts(level, np.arange(area.x, area.x1)), tile.width)
    rows = _first_on_grid(reference.shifts(level, np.arange(area.y, area.y1)), tile.height)
    grid = page.lengths[: len(rows), : len(columns)]
    usable = (rows[:, None] >= 0) & (columns[None] >= 0) & (grid > 0)
    order = np.argsort(np.where(usable, grid, 0), axis=None)[::-1][:CANDIDATES]
    for row, column in zip(*np.unravel_index(order, grid.shape), strict=True):
        if not usable[row, column]:
            continue
        place = int(row), int(column)
        x, y = int(columns[column]), int(rows[row])
        right, bottom = min((place[1] + 1) * tile.width, area.width), min((place[0] + 1) * tile.height, area.height)
        corner0 = (round((area.x + x) * frame.downsample_x), round((area.y + y) * frame.downsample_y))
        try:
            ours = tiled.decode(*place)
        except SlideReadError:
            continue
        try:
            theirs = reference.read_region(corner0, level, (right - x, bottom - y))
        except SlideReadError:
            continue
        if _is_grey_by_tag(page):
            return ""
        window = (
            slice(y - place[0] * tile.height, bottom - place[0] * tile.height),
            slice(x - place[1] * tile.width, right - place[1] * tile.width),
        )
        difference = _difference(ours[window], theirs)
        if difference <= TOLERANCE:
            return ""
        if tagged is not None:
            with suppress(SlideReadError):
                if _difference(tiled.decode(*place, tagged)[window], theirs) <= TOLERANCE:
                    return ""
        return f"they decode to other pixels than in OpenSlide, by up to {difference} grey levels"
    return ""  # all damaged: OpenSlide's decoders are the same, but ignore warnings and show altered pixels


def _is_grey_by_tag(page: TiledPage) -> bool:
    """Whether the tag states grey for streams of three components, of which OpenSlide then shows only the first."""
    return page.colours == "MINISBLACK" and page.samples == 3


def _difference(ours: UInt8Array, theirs: UInt8Array) -> int:
    return int(np.abs(ours.astype(np.int16) - theirs).max())


def _first_on_grid(shifts: NDArray[np.float64], tile: int) -> NDArray[np.int64]:
    """Return the first position in each tile that OpenSlide reads without interpolation, (tiles,); -1 if there is
    none.
    """
    count = -(-len(shifts) // tile)
    good = np.zeros(count * tile, np.bool_)
    good[: len(shifts)] = np.abs(shifts) < ON_GRID
    tiles = good.reshape(count, tile)
    first = tiles.argmax(axis=1) + np.arange(count) * tile
    ends = np.minimum((np.arange(count) + 1) * tile, len(shifts))
    room = (ends - first >= MIN_SIDE) | (first % tile == 0)
    return np.where(tiles.any(axis=1) & room, first, -1)
