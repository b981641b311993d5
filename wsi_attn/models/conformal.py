"""Prediction sets with a given coverage: split conformal prediction.

The score of a label is 1 minus its probability, and a set contains every label whose score is at most a threshold, the
quantile of the true labels' scores on the validation set (LAC). Sadinle, Lei and Wasserman, Least Ambiguous
Set-Valued Classifiers with Bounded Error Levels, JASA 2019: no other rule of that coverage has smaller sets on average
if the probabilities are correct. A set may be empty, which means that no label fits.

If validation images and new images are exchangeable, the set contains the true label with a probability of at least the
coverage, averaged over images; not for each class or kind of image. Several images per patient weaken the guarantee, as
does choosing the epoch and the temperature on the same validation images, so that `evaluate` measures the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UsageError
from wsi_attn.models.probabilities import FloatArray, IntArray

COVERAGES = (0.8, 0.9, 0.95)
METHOD = "LAC"

BoolArray = NDArray[np.bool_]


def conformal_thresholds(labels: IntArray, probabilities: FloatArray) -> dict[str, float | None]:
    """Return the threshold for each of `COVERAGES`, keyed by the coverage as text.

    Parameters
    ----------
    labels, probabilities
        int64 (n,) and float64 (n, C) of images that the network was not trained on.

    Returns
    -------
    Thresholds on the score, 0 to 1; None if there are too few images, see `conformal_quantile`.
    """
    scores = 1 - np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return {str(coverage): conformal_quantile(scores, coverage) for coverage in COVERAGES}


def conformal_quantile(scores: FloatArray, coverage: float) -> float | None:
    """Return the k-th smallest of n scores, k = ceil((n + 1) coverage); None if k > n.

    A coverage of 0.8 thus needs 4 images, 0.9 needs 9 and 0.95 needs 19. The + 1 is the finite-sample correction: a
    new score has n + 1 equally likely ranks among n scores. Vovk, Gammerman and Shafer, Algorithmic Learning in a
    Random World, 2005, section 2.2; Angelopoulos and Bates, A Gentle Introduction to Conformal Prediction, 2021,
    equation 1.
    """
    # Exact decimal arithmetic: 20 * 0.95 is 19, but slightly more in floating point, which would give k = 20.
    rank = math.ceil((scores.size + 1) * Fraction(str(coverage)))
    return float(np.sort(scores)[rank - 1]) if rank <= scores.size else None


def threshold_of(thresholds: Mapping[str, float | None], coverage: float, model: str) -> float:
    """Return the threshold of a checkpoint for a coverage.

    Raises
    ------
    UsageError : the model was not calibrated, not for this coverage, or on too few images for it.
    """
    if not thresholds:
        raise UsageError(f"{model} was trained without conformal thresholds: predict without --coverage")
    ready = [name for name, threshold in thresholds.items() if threshold is not None]
    threshold = thresholds.get(str(coverage))
    if threshold is None:
        reason = "was validated on too few images for" if str(coverage) in thresholds else "has no threshold for"
        instead = f"choose one of {', '.join(ready)}" if ready else "predict without --coverage"
        raise UsageError(f"{model} {reason} a coverage of {coverage:g}; {instead}")
    return threshold


def in_set(probabilities: FloatArray, threshold: float) -> BoolArray:
    """Return which labels are in the set: bool, shape of `probabilities` (..., C)."""
    members: BoolArray = 1 - probabilities <= threshold
    return members


def mean_thresholds(members: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the mean thresholds of an ensemble; None if one member has none.

    The mean carries no guarantee; use the measured coverage.
    """
    means: dict[str, float | None] = {}
    for name in members[0]:
        values = [value for member in members if (value := member.get(name)) is not None]
        means[name] = float(np.mean(values)) if len(values) == len(members) else None
    return means
