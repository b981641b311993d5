"""Answers of a model to a test set, and their measures under any weighting of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_attn.evaluate.metrics import OVERALL
from wsi_attn.evaluate.resampled import resampled_scores
from wsi_attn.evaluate.uncertainty import entropy

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ONE = 10_000
"""Numbers of the files of results are whole: ten thousandths."""


class Answers(Protocol):
    """Answers to n rows."""

    def measured(self, name: str, weights: FloatArray) -> FloatArray:
        """Return a measure under row weights (R, n): float64 (R,), NaN where it is undefined."""
        ...

    def counted(self, name: str) -> NDArray[np.bool_] | None:
        """Return which rows a measure is a share of, bool (n,); None for those that are no shares."""
        ...


@dataclass(frozen=True)
class Labelled:
    """Answers of a classifier.

    Attributes
    ----------
    labels
        C names.
    truth, probabilities
        int64 (n,) and float64 (n, C).
    uncertainty
        float64 (n,), what answers are ranked by: the predictive entropy of dropout passes, or the entropy.
    """

    labels: tuple[str, ...]
    truth: IntArray
    probabilities: FloatArray
    uncertainty: FloatArray

    def measured(self, name: str, weights: FloatArray) -> FloatArray:
        """See `Answers.measured`.

        Those of `evaluate.metrics.OVERALL`; `recall:A+B`, the share of the rows of these classes that are answered
        correctly; `auprc:A+B`, the mean of the average precisions of these classes; `aurc`, the area under the
        risk-coverage curve; `error:80`, the share of wrong answers among the 80 % of the rows that are least uncertain.
        """
        kind, _, of = name.partition(":")
        wrong = self.probabilities.argmax(axis=1) != self.truth
        classes = [self.labels.index(label) for label in of.split("+")] if kind in ("recall", "auprc") and of else []
        if kind == "recall":
            counted = weights * np.isin(self.truth, classes)
            return ratio(counted @ ~wrong, counted.sum(axis=1))
        if kind == "error":
            return error_of_surest(float(of) / 100, self.uncertainty, wrong, weights)
        if kind == "aurc":
            return area_under_risk(self.uncertainty, wrong, weights)
        overall, per_class = resampled_scores(self.truth, self.probabilities, weights)
        if kind == "auprc" and of:
            return nanmean([per_class[c]["auprc"] for c in classes])
        if name in OVERALL:
            return overall[name]
        raise SystemExit(f"there is no measure {name}")

    def counted(self, name: str) -> NDArray[np.bool_] | None:
        """See `Answers.counted`."""
        kind, _, of = name.partition(":")
        if kind == "recall":
            return np.isin(self.truth, [self.labels.index(label) for label in of.split("+")])
        return np.full(len(self.truth), True) if name == "accuracy" else None


@dataclass(frozen=True)
class Pixels:
    """Answers of a segmentation: columns of n rows, NaN where undefined."""

    columns: dict[str, FloatArray]

    def measured(self, name: str, weights: FloatArray) -> FloatArray:
        """See `Answers.measured`: `dice`, of all pixels of the images together, or the mean of a column over images."""
        if name == "dice":
            tp, fp, fn = (weights @ self.columns[count] for count in ("tp", "fp", "fn"))
            return ratio(2 * tp, 2 * tp + fp + fn)
        values = self.columns[name]
        known = ~np.isnan(values)
        return ratio(weights[:, known] @ values[known], weights[:, known].sum(axis=1))

    def counted(self, name: str) -> None:
        """See `Answers.counted`."""


def averaged(several: Sequence[Labelled]) -> Labelled:
    """Return the answers of several models with their mean probabilities."""
    probabilities = np.mean([each.probabilities for each in several], axis=0)
    first = several[0]
    return Labelled(first.labels, first.truth, probabilities, entropy(probabilities))


def error_of_surest(kept: float, uncertainty: FloatArray, wrong: NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """Share of wrong answers among the share `kept` of every resample that is least uncertain, (R,)."""
    order = np.argsort(uncertainty, kind="stable")
    in_order = weights[:, order]
    before = np.cumsum(in_order, axis=1) - in_order
    taken = np.clip(kept * weights.sum(axis=1, keepdims=True) - before, 0, in_order)
    return ratio((taken * wrong[order]).sum(axis=1), taken.sum(axis=1))


def area_under_risk(uncertainty: FloatArray, wrong: NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """Return the mean of `evaluate.uncertainty.risk_curve` in every resample, float64 (R,).

    With W rows before a group of m equally uncertain ones, E of them wrong, and a share e of the group, the curve over
    the group is e + (E - e W) / (W + j), j = 1 to m; its sum is m e + (E - e W) (H(W + m) - H(W)) with harmonic
    numbers.
    """
    from scipy.special import digamma

    order = np.argsort(uncertainty, kind="stable")
    starts = np.flatnonzero(np.diff(uncertainty[order], prepend=-np.inf))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    errors = np.add.reduceat((weights * wrong)[:, order], starts, axis=1)
    before, wrong_before = sizes.cumsum(axis=1) - sizes, errors.cumsum(axis=1) - errors
    share = np.nan_to_num(ratio(errors, sizes))
    harmonic = digamma(before + sizes + 1) - digamma(before + 1)
    return ratio((errors + (wrong_before - share * before) * harmonic).sum(axis=1), sizes.sum(axis=1))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """NaN where nothing is counted."""
    quotient = np.full(denominator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def nanmean(values: Sequence[FloatArray]) -> FloatArray:
    """Mean over the first axis of what is defined."""
    stacked = np.asarray(values)
    return ratio(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(axis=0).astype(np.float64))
