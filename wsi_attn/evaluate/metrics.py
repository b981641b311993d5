"""Classification metrics of one set of labels and probabilities.

Two conventions apply. Classes are scored one against the rest, also for two classes: their macro AUROC is the
mean over both classes. A class absent from the labels has no metrics (NaN here, null in JSON) and
is excluded from macro averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_attn.models.probabilities import FloatArray, IntArray, checked

OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "ece", "brier")
PER_CLASS = ("recall", "precision", "f1", "auroc", "auprc")
ECE_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Values of all metrics; NaN where a metric is undefined.

    `overall` has the keys `OVERALL`, each class of `per_class` the keys `PER_CLASS`; row r, column c of
    `confusion_matrix` counts slides of class r predicted as c.
    """

    overall: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confusion_matrix: IntArray


def classification_scores(labels: ArrayLike, probabilities: ArrayLike, names: Sequence[str]) -> Scores:
    """Compute all classification metrics of a set of predictions.

    Parameters
    ----------
    labels
        int64 (n,), index of the true class.
    probabilities
        float (n, C), rows sum to 1. The predicted class is the first of the most probable ones.
    names
        C class names.

    Returns
    -------
    `balanced_accuracy`, `macro_f1`, `auroc` and `auprc` are means over the classes that the labels contain;
    `balanced_accuracy` is thus the mean recall. A class that is never predicted has precision and F1 0. `auroc` and
    `auprc` (average precision) are NaN when the labels hold one class only.

    Raises
    ------
    PredictionError : see `checked`.
    """
    from sklearn import metrics as sk  # imported here because it takes a second

    y, p = checked(labels, probabilities, names)
    called = p.argmax(axis=1)
    present = np.unique(y)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, called, labels=present, zero_division=0)
    per_class = {name: dict.fromkeys(PER_CLASS, float("nan")) for name in names}
    for index, c in enumerate(present):
        ranked = _ranking_scores(y == c, p[:, c]) if len(present) > 1 else (float("nan"), float("nan"))
        values = (recall[index], precision[index], f1[index], *ranked)
        per_class[names[c]] = {key: float(value) for key, value in zip(PER_CLASS, values, strict=True)}
    found = [per_class[names[c]] for c in present]
    overall = {
        "accuracy": float(sk.accuracy_score(y, called)),
        "balanced_accuracy": _mean_of(found, "recall"),
        "macro_f1": _mean_of(found, "f1"),
        "auroc": _mean_of(found, "auroc"),
        "auprc": _mean_of(found, "auprc"),
        "ece": expected_calibration_error(called == y, p.max(axis=1)),
        "brier": brier_score(y, p),
    }
    return Scores(overall, per_class, sk.confusion_matrix(y, called, labels=np.arange(len(names))).astype(np.int64))


def expected_calibration_error(correct: NDArray[np.bool_], confidence: FloatArray) -> float:
    """Expected calibration error over `ECE_BINS` bins of equal width.

    Parameters
    ----------
    correct, confidence
        bool (n,), float (n,): whether the prediction is correct, and its probability.

    Returns
    -------
    0 to 1. Bin b holds confidences in (b / 15, (b + 1) / 15].

    Notes
    -----
    sum_b |B_b| / n * |accuracy(B_b) - confidence(B_b)| = 1 / n * sum_b |sum_{i in B_b} (correct_i - confidence_i)|,
    the form that is computed. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    gap = np.bincount(confidence_bin(confidence), weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / correct.size)


def confidence_bin(confidence: FloatArray) -> IntArray:
    """Return the bin index of each confidence: int64 (n,), 0 to `ECE_BINS` - 1; a border belongs to the bin below
    it.
    """
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def brier_score(labels: IntArray, probabilities: FloatArray) -> float:
    """Brier score: mean squared distance of probabilities from one-hot labels, summed over classes, 0 to 2.

    Brier, Verification of forecasts expressed in terms of probability, 1950, equation 2; for two classes this is
    twice the score of one class.
    """
    return float(squared_errors(labels, probabilities).mean())


def squared_errors(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return the Brier term of each slide: float64 (n,)."""
    errors: FloatArray = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    return errors


def _ranking_scores(positive: NDArray[np.bool_], score: FloatArray) -> tuple[float, float]:
    from sklearn import metrics as sk

    return float(sk.roc_auc_score(positive, score)), float(sk.average_precision_score(positive, score))


def _mean_of(rows: list[dict[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))
