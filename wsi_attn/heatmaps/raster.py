"""Attention as a raster that lies on a picture of the slide: ranks, and resampling by way of level 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_attn.geometry import Frame

FloatArray = NDArray[np.float32]


def attention_rank(values: FloatArray) -> FloatArray:
    """Percentile of each cell among the slide's cells that were looked at.

    Attention is a softmax: a few cells hold most of it and all others look alike. Ranks spread it evenly, at the
    price of saying nothing of how much more the first cells weigh.

    Parameters
    ----------
    values
        float32 (rows, columns), NaN where nothing was looked at.

    Returns
    -------
    float32 (rows, columns): 0 for the least, 1 for the most attended cell, equal cells share the mean of their
    ranks (all equal: 0.5); NaN stays NaN.
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
    """Attention as a share of the slide's largest, and that largest value.

    Returns
    -------
    float32 (rows, columns), 0 to 1, NaN stays NaN; and the value that became 1, 0.0 where there is no attention.
    """
    largest = float(np.nanmax(values)) if not np.isnan(values).all() else 0.0
    return (values / np.float32(largest) if largest > 0 else values * np.float32(0)), largest


def resample(values: FloatArray, source: Frame, target: Frame) -> FloatArray:
    """`values` laid on `source`, as seen on `target`, aligned by their common level 0.

    A target pixel is NaN exactly where its centre lies in a NaN cell or outside `source`; elsewhere it is the mean of
    the cells around it that are not NaN, weighted by a triangle one cell wide (bilinear), or one target pixel wide
    where pixels are larger than cells. So colour neither leaks into what was not looked at nor fades towards it, and
    no value leaves the range of its neighbours.

    Parameters
    ----------
    values
        float32 (source rows, source columns).
    source, target
        Frames over the same level 0; factors may be fractional and unequal along the axes.

    Returns
    -------
    float32 (target.size.height, target.size.width).
    """
    rows, row_of = _axis(values.shape[0], source.downsample_y, target.size.height, target.downsample_y)
    columns, column_of = _axis(values.shape[1], source.downsample_x, target.size.width, target.downsample_x)
    seen = ~np.isnan(values)
    total = rows @ np.where(seen, values, 0) @ columns.T
    weight = rows @ seen.astype(np.float32) @ columns.T
    inside = (row_of >= 0)[:, None] & (column_of >= 0)[None, :]
    shown = inside & seen[np.ix_(np.maximum(row_of, 0), np.maximum(column_of, 0))]
    resampled = np.full(total.shape, np.nan, np.float32)
    np.divide(total, weight, out=resampled, where=shown)
    return resampled


def _axis(cells: int, cell: float, pixels: int, pixel: float) -> tuple[FloatArray, NDArray[np.int64]]:
    """Along one axis: the weight of each cell for each pixel, (pixels, cells), and the cell below each pixel's centre.

    `cell` and `pixel` are extents in level-0 pixels. The index is -1 for pixels beyond the last cell.
    """
    centre = (np.arange(pixels) + 0.5) * pixel / cell
    below = np.floor(centre).astype(np.int64)
    below[below >= cells] = -1
    reach = max(1.0, pixel / cell)
    distance = np.abs(centre[:, None] - (np.arange(cells) + 0.5))
    return np.maximum(1 - distance / reach, 0).astype(np.float32), below
