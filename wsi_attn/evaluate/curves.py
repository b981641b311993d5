"""Curves and bins of reports: ROC, precision-recall, risk-coverage, reliability.

Curves are thinned to `POINTS` points to keep reports small; areas are computed from the full data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsi_attn.evaluate.metrics import ECE_BINS, confidence_bin
from wsi_attn.json_types import JsonObject
from wsi_attn.models.probabilities import FloatArray, IntArray

POINTS = 101

Curve = dict[str, list[float]]


def curves(labels: IntArray, probabilities: FloatArray, names: Sequence[str]) -> JsonObject:
    """Return the curves of a set of predictions.

    Parameters
    ----------
    labels, probabilities, names
        int64 (n,), float64 (n, C) and C class names.

    Returns
    -------
    `roc` (x false positive rate, y true positive rate) and `precision_recall` (x recall, y precision), each by class,
    one against the rest; none for absent classes or a single class. `risk_coverage`: y, the error rate
    among the x most confident predictions.
    """
    from sklearn import metrics as sk

    roc, precision_recall = {}, {}
    for c, name in enumerate(names):
        positive = labels == c
        if 0 < positive.sum() < labels.size:
            false_positive, true_positive, _ = sk.roc_curve(positive, probabilities[:, c])
            precision, recall, _ = sk.precision_recall_curve(positive, probabilities[:, c])
            roc[name] = thinned(false_positive, true_positive)
            precision_recall[name] = thinned(recall[::-1], precision[::-1])
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    answered = np.arange(1, labels.size + 1)
    risk = thinned(answered / labels.size, wrong.cumsum() / answered)
    return {"roc": roc, "precision_recall": precision_recall, "risk_coverage": risk}


def reliability(labels: IntArray, probabilities: FloatArray) -> list[dict[str, float]]:
    """Return the nonempty bins of the expected calibration error.

    Each with `low` and `high` of its largest probabilities, `n` images, their mean probability `confidence`, and the
    share `accuracy` of right ones among them.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    member = confidence_bin(confidence)
    return [
        {
            "low": round(b / ECE_BINS, 6),
            "high": round((b + 1) / ECE_BINS, 6),
            "n": int((member == b).sum()),
            "confidence": round(float(confidence[member == b].mean()), 6),
            "accuracy": round(float(correct[member == b].mean()), 6),
        }
        for b in np.unique(member).tolist()
    ]


def thinned(x: FloatArray, y: FloatArray) -> Curve:
    """Return a curve with at most `POINTS` points."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(np.int64))
    return {"x": x[kept].round(6).tolist(), "y": y[kept].round(6).tolist()}
