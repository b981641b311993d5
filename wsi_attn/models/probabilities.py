"""Arrays of labels and probabilities, and their validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_attn.errors import PredictionError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SUM_TOLERANCE = 1e-2
"""How far a row of probabilities may be from 1: what half precision and rounded JSON leave."""


def checked(labels: ArrayLike, probabilities: ArrayLike, names: Sequence[str]) -> tuple[IntArray, FloatArray]:
    """Labels as int64 (n,) and probabilities as float64 (n, C), after validation.

    Raises
    ------
    PredictionError : nothing to evaluate, inconsistent shapes, a label outside `names`, or rows that are not
        probabilities (negative, not finite, or a sum away from 1 by more than `SUM_TOLERANCE`).
    """
    y, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    if y.ndim != 1 or y.size == 0:
        raise PredictionError(f"Cannot evaluate: labels have shape {y.shape}, at least one labelled slide is needed")
    if p.shape != (y.size, len(names)):
        raise PredictionError(
            f"Cannot evaluate: probabilities have shape {p.shape}, expected {(y.size, len(names))}, slides by classes"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= len(names):
        raise PredictionError(f"Cannot evaluate: labels must be integers from 0 to {len(names) - 1}, the class indices")
    good = np.isfinite(p).all(axis=1) & (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise PredictionError(
            f"Cannot evaluate: row {row} is {p[row].tolist()}; probabilities must be 0 or more and sum to 1"
        )
    return y.astype(np.int64), p
