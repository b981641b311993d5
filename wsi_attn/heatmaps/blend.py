"""Rasterisation of tile scores; overlapping tiles are averaged with their areas as weights.

Along each axis, the coverage of pixels by a tile is a box with fractional ends: four steps of a running sum. A tile
thus costs sixteen additions regardless of its size, and the raster is produced in bands of rows, one in memory at a
time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame, Size
from wsi_attn.heatmaps.raster import FloatArray

BAND = 256
"""Rows of a band, held as two float64 planes."""

LARGEST_SIDE = 4096
"""Maximum longer side of a raster in pixels: 64 MB of float32."""

LEAST_SHARE = 1e-6
"""Share of a pixel below which it counts as uncovered, far above the rounding error of the running sums."""


def blend_tiles(
    coords: NDArray[np.int64], extent0: tuple[float, float], values: FloatArray, frame: Frame
) -> FloatArray:
    """Rasterise tile scores.

    Parameters
    ----------
    coords
        int64 (N, 2): x, y of each tile's top-left corner, level-0 pixels, in any order; tiles may overlap and may
        extend beyond the frame.
    extent0
        Width and height of a tile in level-0 pixels.
    values
        float32 (N,); NaN tiles are ignored.
    frame
        Frame of the raster.

    Returns
    -------
    float32 (rows, columns): in each pixel the mean of the tiles that touch it, weighted by shared area; NaN
    without any. Sums are float64.

    Notes
    -----
    O(N + pixels) time; about 40 bytes a tile, 16 a pixel of one band, and the result.
    """
    raster = np.empty((frame.size.height, frame.size.width), np.float32)
    for row, band in blend_bands(coords, extent0, values, frame):
        raster[row : row + len(band)] = band
    return raster


def blend_bands(
    coords: NDArray[np.int64], extent0: tuple[float, float], values: FloatArray, frame: Frame
) -> Iterator[tuple[int, FloatArray]]:
    """`blend_tiles` in bands from the top: index of the first row, and float32 (rows, columns)."""
    height, width = frame.size.height, frame.size.width
    used = np.flatnonzero(~np.isnan(values))
    columns, column_steps = _steps(coords[used, 0], extent0[0], frame.downsample_x, width)  # (n, 4)
    rows, row_steps = _steps(coords[used, 1], extent0[1], frame.downsample_y, height)
    scores = values[used].astype(np.float64)
    order = np.argsort(rows, axis=None, kind="stable")
    sorted_rows = rows.ravel()[order]
    weight_carry, total_carry = np.zeros(width), np.zeros(width)
    for top in range(0, height, BAND):
        count = min(BAND, height - top)
        first, last = np.searchsorted(sorted_rows, (top, top + count))
        tiles, step = np.divmod(order[first:last], 4)
        # (events, 4): each row step of a tile at each of its column steps
        index = (sorted_rows[first:last] - top)[:, None] * (width + 1) + columns[tiles]
        share = row_steps[tiles, step][:, None] * column_steps[tiles]
        weight = _running(index, share, count, width, weight_carry)
        total = _running(index, share * scores[tiles][:, None], count, width, total_carry)
        weight_carry, total_carry = weight[-1].copy(), total[-1].copy()
        # Carried sums remain sums of rows: the running sum over columns follows later.
        weight, total = np.cumsum(weight, axis=1), np.cumsum(total, axis=1)
        band = np.full((count, width), np.nan, np.float32)
        np.divide(total, weight, out=band, where=weight > LEAST_SHARE, casting="same_kind")
        yield top, band


def tile_frame(size0: Size, extent0: tuple[float, float], stride0: tuple[float, float]) -> Frame:
    """The frame that preserves the tile edges of a regular grid.

    A pixel is one stride, or a fraction of it if tiles overlap by a part of their stride; larger if the longer side
    would exceed `LARGEST_SIDE`.
    """
    parts = max(_parts(extent / stride) for extent, stride in zip(extent0, stride0, strict=True))
    x, y = stride0[0] / parts, stride0[1] / parts
    coarser = max(1.0, size0.width / x / LARGEST_SIDE, size0.height / y / LARGEST_SIDE)
    return Frame.covering(size0, x * coarser, y * coarser)


def _parts(ratio: float, most: int = 16) -> int:
    """The smallest number of parts of a stride of which a tile is an integer multiple; `most` if there is none."""
    return next((parts for parts in range(1, most) if math.isclose(ratio * parts, round(ratio * parts))), most)


def _steps(
    starts: NDArray[np.int64], extent: float, downsample: float, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Changes of pixel coverage along one axis: positions and amounts, (n, 4) and (n, 4).

    The box from `a` to `b` covers 1 - frac(a) of the first pixel, all of the next, and frac(b) of the last.
    """
    ends = np.clip(np.stack([starts, starts + extent], axis=1) / downsample, 0, pixels)
    whole = np.floor(ends)
    part = ends - whole
    index = np.stack([whole[:, 0], whole[:, 0] + 1, whole[:, 1], whole[:, 1] + 1], axis=1)
    change = np.stack([1 - part[:, 0], part[:, 0], part[:, 1] - 1, -part[:, 1]], axis=1)
    return np.minimum(index, pixels).astype(np.int64), change


def _running(
    index: NDArray[np.int64], share: NDArray[np.float64], rows: int, width: int, carry: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Accumulate the changes at their pixels down the rows, starting from `carry`: (rows, width)."""
    summed = np.bincount(index.ravel(), share.ravel(), rows * (width + 1)).astype(np.float64)  # int64 if empty
    changes = summed.reshape(rows, width + 1)[:, :width]
    changes[0] += carry
    return np.cumsum(changes, axis=0)
