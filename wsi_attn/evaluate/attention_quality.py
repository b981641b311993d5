"""Agreement of attention with annotated regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def pointing_game(attention: ArrayLike, touched: ArrayLike) -> float | None:
    """Return 1 if the most attended cell of an image touches its annotated region, otherwise 0.

    Parameters
    ----------
    attention
        float (rows, columns); NaN for invalid cells.
    touched
        bool (rows, columns), cells that the region touches.

    Returns
    -------
    For ties, the share of tied cells that touch it, so that uniform attention scores like a random
    cell; None without valid cells.

    Notes
    -----
    Zhang et al., Top-down neural attention by excitation backprop, ECCV 2016, section 5.1, with the cell of the map
    instead of a point with a tolerance of 15 pixels.
    """
    weights = np.asarray(attention, np.float64)
    if np.isnan(weights).all():
        return None
    return float(np.asarray(touched, np.bool_)[weights == np.nanmax(weights)].mean())


def mass_in_region(attention: ArrayLike, share: ArrayLike) -> float | None:
    """Return the share of the attention inside the annotated region.

    Parameters
    ----------
    attention
        float (rows, columns), nonnegative, any sum; NaN for invalid cells, which count as 0.
    share
        bool or float 0 to 1, (rows, columns): share of the cell that the region covers.

    Returns
    -------
    0 to 1: sum of attention times covered share of the cell, over the sum of attention; None if all attention is 0.
    Uniform attention gives the region's share of the tissue.
    """
    weights = np.nan_to_num(np.asarray(attention, np.float64))
    total = weights.sum()
    if not total > 0:
        return None
    return float((weights * np.asarray(share, np.float64)).sum() / total)


def attention_auprc(attention: ArrayLike, share: ArrayLike, area: ArrayLike) -> float | None:
    """Return the average precision of the attention as a pixel score, with the region as positives.

    Parameters
    ----------
    attention
        float (rows, columns); NaN for invalid cells, which are excluded.
    share, area
        float (rows, columns), 0 to 1 and at least 0: share of the cell that the region covers, and area of the cell.
        All pixels of a cell have its attention, and equal attention is one step of the curve.

    Returns
    -------
    0 to 1; None if no valid cell touches the region. Uniform attention gives the region's share of the
    valid area.

    Notes
    -----
    sum_k (R_k - R_(k-1)) P_k over decreasing attention, as in scikit-learn's `average_precision_score`.
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
