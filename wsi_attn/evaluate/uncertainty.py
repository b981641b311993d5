"""Uncertainty: entropy terms, risk-coverage curves and referral.

Letters: T passes with dropout, C classes, n images, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wsi_attn.evaluate.curves import Curve, thinned
from wsi_attn.evaluate.intervals import Resamples, percentile_interval, ratio_interval
from wsi_attn.evaluate.resampled import BoolArray
from wsi_attn.json_types import JsonObject
from wsi_attn.models.probabilities import FloatArray

REFERRED = (0.1, 0.2, 0.3)
"""Shares of the images, the most uncertain ones, that the referral table refers."""


def entropy(probabilities: FloatArray) -> FloatArray:
    """Entropy of distributions, nats: float64 (..., C) to (...), 0 to log C."""
    positive = np.where(probabilities > 0, probabilities, 1.0)
    return np.asarray(np.maximum(0.0, -(positive * np.log(positive)).sum(axis=-1)))


def entropy_terms(passes: FloatArray) -> dict[str, float]:
    """Return the uncertainty terms of one image from dropout passes, in nats.

    Parameters
    ----------
    passes
        float64 (T, C), probabilities of each pass.

    Returns
    -------
    `predictive_entropy`, H of the mean of the passes; `expected_entropy`, the mean of their H, the aleatoric
    part; `mutual_information`, the difference, the epistemic part. 0 <= mutual
    information <= predictive entropy <= log C.

    Notes
    -----
    Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016; the terms as in Smith and Gal, Understanding
    Measures of Uncertainty for Adversarial Example Detection, UAI 2018, equations 1 to 3.
    """
    predictive = float(entropy(passes.mean(axis=0)))
    expected = float(entropy(passes).mean())
    return {
        "predictive_entropy": predictive,
        "expected_entropy": min(expected, predictive),  # rounding
        "mutual_information": max(0.0, predictive - expected),
    }


def risk_curve(uncertainty: FloatArray, wrong: BoolArray, counts: FloatArray | None = None) -> FloatArray:
    """Return the error rate among the k most certain images, k = 1 to their number: float64 (sum of counts,).

    Parameters
    ----------
    uncertainty, wrong
        float64 (n,) and bool (n,). Ties are broken at random; this is the mean over all orders.
    counts
        float64 (n,), how often each image occurs; once by default.
    """
    weights = np.ones(len(wrong)) if counts is None else counts
    _, group = np.unique(uncertainty, return_inverse=True)
    sizes = np.bincount(group, weights=weights)
    errors = np.bincount(group, weights=weights * wrong)[sizes > 0]
    sizes = sizes[sizes > 0]
    expected = np.repeat(errors / sizes, sizes.astype(np.int64))
    return np.asarray(expected.cumsum() / np.arange(1, len(expected) + 1))


def uncertainty_section(
    terms: Mapping[str, FloatArray], by: str, wrong: BoolArray, resamples: Resamples, passes: int
) -> JsonObject:
    """Evaluate the uncertainty terms on the evaluated split.

    Parameters
    ----------
    terms
        float64 (n,) by name; higher is less certain.
    by
        The term used for referral.
    wrong
        bool (n,).
    resamples
        Of the n images.
    passes
        T, 0 without dropout.

    Returns
    -------
    `by`, `passes`; `terms` with, for each, `aurc`, the mean of `risk_curve`, and the mean term of `right` and
    `wrong` predictions; `aurc_optimal`, if every wrong prediction were less certain than any right one;
    `risk_coverage` and `risk_coverage_optimal` as curves of at most `POINTS` points; `referral` by share, with the
    `error` of the remaining images and their number. Values have intervals.

    Notes
    -----
    Geifman, Uziel, El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019, section 3.
    """
    best = wrong.astype(np.float64)
    curve = risk_curve(terms[by], wrong)
    curves = [risk_curve(terms[by], wrong, counts) for counts in resamples.weights]
    return {
        "by": by,
        "passes": passes,
        "terms": {name: _term(values, wrong, resamples) for name, values in terms.items()},
        "aurc_optimal": _area(best, wrong, resamples),
        "risk_coverage": _thinned(curve),
        "risk_coverage_optimal": _thinned(risk_curve(best, wrong)),
        "referral": {f"{share:g}": _referral(share, curve, curves, resamples.groups) for share in (0.0, *REFERRED)},
    }


def _term(values: FloatArray, wrong: BoolArray, resamples: Resamples) -> JsonObject:
    return {
        "aurc": _area(values, wrong, resamples),
        "right": ratio_interval(values * ~wrong, (~wrong).astype(np.float64), resamples).record(),
        "wrong": ratio_interval(values * wrong, wrong.astype(np.float64), resamples).record(),
    }


def _area(values: FloatArray, wrong: BoolArray, resamples: Resamples) -> dict[str, float | None]:
    """Return the mean of the risk curve."""
    resampled = np.array([risk_curve(values, wrong, counts).mean() for counts in resamples.weights])
    return percentile_interval(float(risk_curve(values, wrong).mean()), resampled, resamples.groups).record()


def _referral(share: float, curve: FloatArray, curves: list[FloatArray], n_groups: int) -> JsonObject:
    """Return the error of the remaining images when the most uncertain share is referred."""

    def left(of: FloatArray) -> int:
        return max(1, len(of) - round(share * len(of)))

    resampled = np.array([each[left(each) - 1] for each in curves])
    error = percentile_interval(float(curve[left(curve) - 1]), resampled, n_groups)
    return {"answered": left(curve), "error": error.record()}


def _thinned(curve: FloatArray) -> Curve:
    """Return the curve over the share of images that are not referred."""
    return thinned(np.arange(1, len(curve) + 1) / len(curve), curve)
