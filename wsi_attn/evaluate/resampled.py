"""The metrics of `metrics.py` for many weightings of the slides at once (vectorised bootstrap).

A bootstrap resample is a vector of counts per slide. Sorting the scores of each class once and summing counts computes
all metrics of a thousand resamples in well under a second, where one scikit-learn call per resample takes most of a
minute. Integer weights give exactly the result of `classification_scores` for repeated slides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_attn.evaluate.metrics import ECE_BINS, OVERALL, PER_CLASS, confidence_bin, squared_errors
from wsi_attn.models.probabilities import FloatArray, IntArray

BLOCK_ELEMENTS = 1 << 21
"""Weights handled at a time: bounds memory to some tens of MiB whatever the number of slides."""

BoolArray = NDArray[np.bool_]
Resampled = tuple[dict[str, FloatArray], list[dict[str, FloatArray]]]


def resampled_scores(labels: IntArray, probabilities: FloatArray, weights: FloatArray) -> Resampled:
    """Compute the metrics of each weighting.

    Parameters
    ----------
    labels, probabilities
        int64 (n,) and float64 (n, C), as `metrics.checked` returns them.
    weights
        float64 (R, n), at least 0, each row with a positive sum.

    Returns
    -------
    The overall metrics by name, and for each class its metrics by name; every value is float64 (R,), NaN if the
    metric is undefined. A macro average is undefined if a class of `labels` has no weight, because a
    mean over fewer classes is another quantity.
    """
    rows = max(1, BLOCK_ELEMENTS // labels.size)
    blocks = [_block(labels, probabilities, weights[start : start + rows]) for start in range(0, len(weights), rows)]
    overall = {key: np.concatenate([block[0][key] for block in blocks]) for key in OVERALL}
    classes = range(probabilities.shape[1])
    per_class = [{key: np.concatenate([block[1][c][key] for block in blocks]) for key in PER_CLASS} for c in classes]
    return overall, per_class


def _block(labels: IntArray, probabilities: FloatArray, weights: FloatArray) -> Resampled:
    called = probabilities.argmax(axis=1)
    total = weights.sum(axis=1)
    per_class = [
        _class_scores(labels == c, called == c, probabilities[:, c], weights) for c in range(len(probabilities.T))
    ]
    present = [per_class[c] for c in np.unique(labels)]
    macro = {key: np.mean([scores[key] for scores in present], axis=0) for key in PER_CLASS}
    overall = {
        "accuracy": weights @ (called == labels) / total,
        "balanced_accuracy": macro["recall"],
        "macro_f1": macro["f1"],
        "auroc": macro["auroc"],
        "auprc": macro["auprc"],
        "ece": _calibration_error(called == labels, probabilities.max(axis=1), weights) / total,
        "brier": weights @ squared_errors(labels, probabilities) / total,
    }
    return overall, per_class


def _class_scores(
    positive: BoolArray, called: BoolArray, score: FloatArray, weights: FloatArray
) -> dict[str, FloatArray]:
    hits, actual, calls = weights @ (positive & called), weights @ positive, weights @ called
    exists = actual > 0
    auroc, auprc = _ranking_scores(positive, score, weights)
    return {
        "recall": _ratio(hits, actual),
        "precision": np.where(exists, np.nan_to_num(_ratio(hits, calls)), np.nan),
        "f1": np.where(exists, _ratio(2 * hits, actual + calls), np.nan),
        "auroc": auroc,
        "auprc": auprc,
    }


def _ranking_scores(positive: BoolArray, score: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """AUROC as the share of (positive, negative) pairs in the right order, ties half; and average precision."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    ranked = weights[:, order]
    of_positives = np.add.reduceat(ranked * positive[order], starts, axis=1)
    of_negatives = np.add.reduceat(ranked * ~positive[order], starts, axis=1)
    above, false_above = of_positives.cumsum(axis=1), of_negatives.cumsum(axis=1)
    positives, negatives = above[:, -1], false_above[:, -1]
    below = negatives[:, None] - false_above
    auroc = _ratio((of_positives * (below + of_negatives / 2)).sum(axis=1), positives * negatives)
    precision = np.nan_to_num(_ratio(above, above + false_above))
    auprc = np.where(negatives > 0, _ratio((of_positives * precision).sum(axis=1), positives), np.nan)
    return auroc, auprc


def _calibration_error(correct: BoolArray, confidence: FloatArray, weights: FloatArray) -> FloatArray:
    """Sum over bins of the absolute gap; (R,)."""
    gaps = np.zeros((correct.size, ECE_BINS))
    gaps[np.arange(correct.size), confidence_bin(confidence)] = correct - confidence
    total: FloatArray = np.abs(weights @ gaps).sum(axis=1)
    return total


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient, NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
