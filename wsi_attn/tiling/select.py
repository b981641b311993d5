"""Tile grids: positions of tiles, and selection by tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame, tile_origins
from wsi_attn.slide import Level
from wsi_attn.tissue.mask import TissueMask


def grid_origins(frame: Frame, tile: int, overlap: int) -> NDArray[np.int64]:
    """Corners (N, 2) of all tiles that cover a frame, in its pixels, row by row; the last may extend beyond it."""
    xs = tile_origins(frame.size.width, tile, tile - overlap)
    ys = tile_origins(frame.size.height, tile, tile - overlap)
    x, y = np.meshgrid(np.array(xs, np.int64), np.array(ys, np.int64))  # (rows, columns) each
    return np.stack([x.ravel(), y.ravel()], axis=1)


def coords0_from(origins: NDArray[np.int64], frame: Frame) -> NDArray[np.int64]:
    """Convert frame pixels to level-0 pixels, rounded so that `origins_from0` restores the frame pixels."""
    return np.asarray(np.rint(origins * (frame.downsample_x, frame.downsample_y)), np.int64)


def origins_from0(coords0: NDArray[np.int64], frame: Frame) -> NDArray[np.int64]:
    """Convert level-0 pixels to frame pixels, rounded; the exact inverse if downsamples are at least 1."""
    return np.asarray(np.rint(coords0 / (frame.downsample_x, frame.downsample_y)), np.int64)


def select_tiles(mask: TissueMask, frame: Frame, tile: int, overlap: int, min_tissue: float) -> NDArray[np.int64]:
    """Select tiles with enough tissue.

    Unreadable areas of the mask's view count as tissue, so damage does not silently remove tiles from a grid; it is
    counted when the tiles are read.

    Parameters
    ----------
    frame
        Level of the tiles.
    tile, overlap
        In pixels of the frame.
    min_tissue
        Minimum share of a tile's area inside the slide, 0 to 1.
    """
    origins = grid_origins(frame, tile, overlap)
    regions0 = regions0_of(origins, frame, tile)
    return coords0_from(origins[mask.coverage(regions0) + mask.unknown(regions0) >= min_tissue], frame)


def regions0_of(origins: NDArray[np.int64], frame: Frame, tile: int) -> NDArray[np.float64]:
    """Level-0 rectangles (N, 4) x, y, width, height of tiles, not rounded."""
    factors = np.array([frame.downsample_x, frame.downsample_y])
    extents = np.broadcast_to(tile * factors, origins.shape)
    return np.concatenate([origins * factors, extents], axis=1)


def wanted_chunks(mask: TissueMask, level: Level) -> NDArray[np.bool_]:
    """Chunks of a level, (rows, columns), that contain tissue or areas unreadable in the view."""
    rows, columns = chunk_counts(level)
    y, x = np.mgrid[0:rows, 0:columns]
    factors = np.array([level.downsample_x, level.downsample_y])
    extent = level.tile_size * factors
    corners = np.stack([x.ravel(), y.ravel()], axis=1) * extent
    regions0 = np.concatenate([corners, np.broadcast_to(extent, corners.shape)], axis=1)
    wanted = (mask.coverage(regions0) > 0) | (mask.unknown(regions0) > 0)
    return np.asarray(wanted.reshape(rows, columns))


def touched_chunks(origins: NDArray[np.int64], tile: int, level: Level) -> NDArray[np.bool_]:
    """Chunks of a level, (rows, columns), that overlap any of these tiles; all in its pixels."""
    rows, columns = chunk_counts(level)
    edges = np.zeros((rows + 1, columns + 1), np.int64)  # +1 and -1 at the corners of each tile, accumulated below
    top, left, bottom, right = _chunks_under(origins, tile, level)
    for y, x, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(edges, (y, x), sign)
    return np.asarray(edges.cumsum(axis=0).cumsum(axis=1)[:rows, :columns] > 0)


def _chunks_under(origins: NDArray[np.int64], tile: int, level: Level) -> tuple[NDArray[np.int64], ...]:
    """First row and column, and one past the last, of the chunks under each tile; each (N,)."""
    rows, columns = chunk_counts(level)
    width, height = level.tile_size
    left, top = origins[:, 0] // width, origins[:, 1] // height
    right = np.minimum(-(-(origins[:, 0] + tile) // width), columns)
    bottom = np.minimum(-(-(origins[:, 1] + tile) // height), rows)
    return top, left, bottom, right


def chunk_counts(level: Level) -> tuple[int, int]:
    """Rows and columns of chunks that cover a level."""
    return -(-level.size.height // level.tile_size.height), -(-level.size.width // level.tile_size.width)
