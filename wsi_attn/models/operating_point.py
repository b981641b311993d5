"""Operating points: probability thresholds that reach a target sensitivity.

The threshold is chosen on the validation set. Only images of the label itself determine its sensitivity, so a
checkpoint stores for each label the thresholds that 1 % to 100 % of them reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from wsi_attn.errors import UsageError
from wsi_attn.models.probabilities import FloatArray, IntArray


def sensitivity_thresholds(labels: IntArray, probabilities: FloatArray) -> tuple[tuple[float, ...] | None, ...]:
    """Return for each class the 100 highest thresholds that at least 1 %, 2 %, ... 100 % of its images reach.

    Parameters
    ----------
    labels, probabilities
        int64 (n,) and float64 (n, C).

    Returns
    -------
    Decreasing probabilities of each of the C classes; None for a class without images.
    """
    return tuple(_thresholds(probabilities[labels == c, c]) for c in range(probabilities.shape[1]))


def _thresholds(of_positives: FloatArray) -> tuple[float, ...] | None:
    if of_positives.size == 0:
        return None
    falling = np.sort(of_positives)[::-1]
    ranks = [-(-percent * falling.size // 100) for percent in range(1, 101)]  # rounded up: at least that share
    return tuple(float(falling[rank - 1]) for rank in ranks)


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
