"""Attention as a raster: ranks, and resampling between frames through level-0 coordinates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame, Region

FloatArray = NDArray[np.float32]


def attention_rank(values: FloatArray) -> FloatArray:
    """Percentile rank of each valid cell among the valid cells of the slide.

    Attention is a softmax: a few cells hold most of it and all others look alike. Ranks spread it evenly, but do not
    show how much larger the highest weights are.

    Parameters
    ----------
    values
        float32 (rows, columns), NaN for invalid cells.

    Returns
    -------
    float32 (rows, columns): 0 for the least, 1 for the most attended cell; ties share the mean of their ranks (0.5
    if all are equal); NaN stays NaN.
    """
    ranks = np.full(values.shape, np.nan, np.float32)
    seen = ~np.isnan(values)
    _, index, count = np.unique(values[seen], return_inverse=True, return_counts=True)
    total = int(count.sum())
    if total == 0:
        return ranks
    mean_rank = count.cumsum() - (count + 1) / 2
    ranks[seen] = mean_rank[index] / (total - 1) if total > 1 else 0.5
    return ranks


def attention_share(values: FloatArray) -> tuple[FloatArray, float]:
    """Attention relative to its maximum, and the maximum.

    Returns
    -------
    float32 (rows, columns), 0 to 1, NaN stays NaN; and the value mapped to 1, 0.0 if there is no attention.
    """
    largest = float(np.nanmax(values)) if not np.isnan(values).all() else 0.0
    return (values / np.float32(largest) if largest > 0 else values * np.float32(0)), largest


def resample(values: FloatArray, source: Frame, target: Frame, region: Region | None = None) -> FloatArray:
    """Resample `values` from the frame `source` to `target`, aligned through level 0.

    A target pixel is NaN exactly if its centre lies in a NaN cell or outside `source`; otherwise it is the mean of the
    surrounding cells that are not NaN, weighted by a triangle one cell wide (bilinear), or one target pixel wide if
    pixels are larger than cells. Colour thus neither leaks into invalid cells nor fades towards them, and no value
    leaves the range of its neighbours.

    Parameters
    ----------
    values
        float32 (source rows, source columns).
    source, target
        Frames over the same level 0; factors may be fractional and unequal along the axes.
    region
        Part of `target` to compute, in its pixels; all of it by default. Only nearby cells are accessed, so a large
        target can be computed in parts, which equal the whole.

    Returns
    -------
    float32 (rows, columns) of the region.
    """
    region = region or Region(0, 0, *target.size)
    top, rows, row_of = _axis(values.shape[0], source.downsample_y, region.y, region.height, target.downsample_y)
    left, columns, column_of = _axis(values.shape[1], source.downsample_x, region.x, region.width, target.downsample_x)
    window = values[top : top + rows.shape[1], left : left + columns.shape[1]]
    seen = ~np.isnan(window)
    total = rows @ np.where(seen, window, 0) @ columns.T
    weight = rows @ seen.astype(np.float32) @ columns.T
    inside = (row_of >= 0)[:, None] & (column_of >= 0)[None, :]
    resampled = np.full(total.shape, np.nan, np.float32)
    if window.size:
        shown = inside & seen[np.ix_(np.maximum(row_of, 0), np.maximum(column_of, 0))]
        np.divide(total, weight, out=resampled, where=shown)
    return resampled


def halve(values: FloatArray) -> FloatArray:
    """Means of two by two cells, ignoring NaN, sizes rounded up; NaN if all four are."""
    rows, columns = values.shape
    even = np.full((rows + rows % 2, columns + columns % 2), np.nan, np.float32)
    even[:rows, :columns] = values
    fours = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2)
    seen = ~np.isnan(fours)
    total, count = np.where(seen, fours, 0).sum(axis=(1, 3)), seen.sum(axis=(1, 3))
    halved = np.full(total.shape, np.nan, np.float32)
    np.divide(total, count, out=halved, where=count > 0)
    return halved


def _axis(cells: int, cell: float, start: int, pixels: int, pixel: float) -> tuple[int, FloatArray, NDArray[np.int64]]:
    """Interpolation along one axis.

    Returns the first relevant cell, the weights of the cells from it on for each pixel, (pixels, cells), and the cell
    below each pixel's centre, relative to the first one. `cell` and `pixel` are extents in level-0 pixels. The index is
    -1 for pixels beyond the last cell.
    """
    centre = (np.arange(start, start + pixels) + 0.5) * pixel / cell
    reach = max(1.0, pixel / cell)
    first = min(cells, max(0, math.floor(centre[0] - reach - 0.5)))
    last = max(first, min(cells, math.ceil(centre[-1] + reach + 0.5)))
    below = np.floor(centre).astype(np.int64) - first
    below[(below >= last - first) | (centre >= cells)] = -1
    distance = np.abs(centre[:, None] - (np.arange(first, last) + 0.5))
    return first, np.maximum(1 - distance / reach, 0).astype(np.float32), below
