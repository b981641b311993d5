"""Operating points: probability thresholds that reach a target sensitivity.

The threshold is chosen on the validation set. Only images of the label itself determine its sensitivity, so a
checkpoint stores for each label the thresholds that 1 % to 100 % of them reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UsageError
from wsi_attn.evaluate.intervals import ratio_interval
from wsi_attn.evaluate.metrics import FloatArray, IntArray

BoolArray = NDArray[np.bool_]


def sensitivity_thresholds(labels: IntArray, probabilities: FloatArray) -> list[list[float] | None]:
    """Return for each class the 100 highest thresholds that at least 1 %, 2 %, ... 100 % of its images reach.

    Parameters
    ----------
    labels, probabilities
        int64 (n,) and float64 (n, C).

    Returns
    -------
    C lists of decreasing probabilities; None for a class without images.
    """
    return [_thresholds(probabilities[labels == c, c]) for c in range(probabilities.shape[1])]


def _thresholds(of_positives: FloatArray) -> list[float] | None:
    if of_positives.size == 0:
        return None
    falling = np.sort(of_positives)[::-1]
    ranks = [-(-percent * falling.size // 100) for percent in range(1, 101)]  # rounded up: at least that share
    return [float(falling[rank - 1]) for rank in ranks]


def threshold_for(
    operating_points: Sequence[Sequence[float] | None], labels: Sequence[str], positive: str, sensitivity: float
) -> float:
    """Return the stored threshold for `sensitivity`, rounded up to a whole per cent.

    Raises
    ------
    UsageError : unknown label, a sensitivity outside 0 to 1, or no stored threshold for the label.
    """
    if positive not in labels:
        raise UsageError(f"--positive {positive!r} is not a label of the model; its labels are {', '.join(labels)}")
    if not 0 < sensitivity <= 1:
        raise UsageError(f"--sensitivity must be above 0 and at most 1, not {sensitivity:g}")
    kept = operating_points[labels.index(positive)] if operating_points else None
    if kept is None:
        raise UsageError(f"The model has no operating points for {positive!r}: it was calibrated without such images")
    return float(kept[math.ceil(100 * Fraction(str(sensitivity))) - 1])


def operating_section(
    positive: BoolArray,
    score: FloatArray,
    threshold: float,
    weights: FloatArray,
    n_groups: int,
) -> dict[str, Any]:
    """Return the performance of a threshold on the evaluated split.

    Parameters
    ----------
    positive, score
        bool (n,), whether an image has the label, and float64 (n,), the label's probability; predicted positive if the
        score is at least the threshold.
    weights, n_groups
        float64 (R, n) of `intervals.group_weights`, and the number of groups.

    Returns
    -------
    `threshold`; `sensitivity`, `specificity`, `precision` and `negative_predictive_value` as `{value, low, high}`.
    """
    called = score >= threshold
    shares: Mapping[str, tuple[BoolArray, BoolArray]] = {
        "sensitivity": (positive & called, positive),
        "specificity": (~positive & ~called, ~positive),
        "precision": (positive & called, called),
        "negative_predictive_value": (~positive & ~called, ~called),
    }
    return {
        "threshold": threshold,
        **{
            name: ratio_interval(part.astype(np.float64), whole.astype(np.float64), weights, n_groups).record()
            for name, (part, whole) in shares.items()
        },
    }
