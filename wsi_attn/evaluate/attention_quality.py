"""Whether attention lies where an annotator says that the finding is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def pointing_game(attention: ArrayLike, touched: ArrayLike) -> float | None:
    """Whether the most attended cell of an image touches its annotated region: 1 or 0.

    Parameters
    ----------
    attention
        float (rows, columns); NaN where nothing was looked at.
    touched
        bool (rows, columns), cells that the region touches.

    Returns
    -------
    Of equally attended cells the share that touches it, so that attention without preference gives what a random cell
    does; None where nothing was looked at.

    Notes
    -----
    Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016, section 5.1, with the map's cell in place
    of a point and its tolerance of 15 pixels: the map points no finer.
    """
    weights = np.asarray(attention, np.float64)
    if np.isnan(weights).all():
        return None
    return float(np.asarray(touched, np.bool_)[weights == np.nanmax(weights)].mean())


def mass_in_region(attention: ArrayLike, mask: ArrayLike) -> float | None:
    """Share of the attention that lies in the annotated region.

    Parameters
    ----------
    attention
        float (rows, columns), at least 0, any sum; NaN where nothing was looked at, which counts as none.
    mask
        bool or fraction 0..1, (mask_rows, mask_columns), any size: both arrays cover the same rectangle of the slide.

    Returns
    -------
    0 to 1: sum of attention times covered share of the cell, over the sum of attention; None for no attention at all.
    Compare with the region's share of the tissue, which is what attention without preference gives.
    """
    weights = np.nan_to_num(np.asarray(attention, np.float64))
    total = weights.sum()
    if not total > 0:
        return None
    return float((weights * area_resample(np.asarray(mask, np.float64), weights.shape)).sum() / total)


def attention_auprc(attention: ArrayLike, share: ArrayLike, area: ArrayLike) -> float | None:
    """Average precision of the attention as a score of every pixel, the region's pixels being the positives.

    Parameters
    ----------
    attention
        float (rows, columns); NaN where nothing was looked at: those cells are left out.
    share, area
        float (rows, columns), 0 to 1 and at least 0: how much of a cell the region covers, and how large the cell is.
        All pixels of a cell have its attention, and equal attention is one step of the curve.

    Returns
    -------
    0 to 1; None where no looked-at cell touches the region. Equal attention everywhere gives the region's share of
    what was looked at.

    Notes
    -----
    sum_k (R_k - R_(k-1)) P_k over falling attention, as scikit-learn's `average_precision_score` has it.
    """
    score, of_cell, size = (np.asarray(values, np.float64).ravel() for values in (attention, share, area))
    seen = ~np.isnan(score)
    order = np.argsort(-score[seen], kind="stable")
    falling, weight = score[seen][order], size[seen][order]
    marked = weight * of_cell[seen][order]
    if not marked.sum() > 0:
        return None
    starts = np.flatnonzero(np.diff(falling, prepend=np.inf))
    found, taken = np.add.reduceat(marked, starts), np.add.reduceat(weight, starts).cumsum()
    return float((found * found.cumsum() / np.maximum(taken, np.finfo(np.float64).tiny)).sum() / marked.sum())


def area_resample(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Mean of `values` (rows, columns) over each cell of a grid of `shape` that covers the same rectangle.

    Exact for any two sizes, finer or coarser: the overlap of rectangles is the product of the overlaps along the axes.
    """
    resampled: FloatArray = _overlap(values.shape[0], shape[0]) @ values @ _overlap(values.shape[1], shape[1]).T
    return resampled


def _overlap(source: int, target: int) -> FloatArray:
    """Share of each target cell's length that each source cell covers: (target, source), rows sum to 1."""
    # Borders in units of 1 / (source * target) are whole numbers, so that nothing is rounded.
    source_edge, target_edge = np.arange(source + 1) * target, np.arange(target + 1) * source
    low = np.maximum(target_edge[:-1, None], source_edge[None, :-1])
    high = np.minimum(target_edge[1:, None], source_edge[None, 1:])
    share: FloatArray = np.maximum(high - low, 0) / source
    return share
