"""Bootstrap confidence intervals that resample patients.

Slides of one patient are correlated, so patients are resampled: percentile bootstrap over groups,
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, with groups as units. The
calibration error grows when slides are repeated, so its interval for a small or well calibrated cohort may lie
above its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_attn.models.probabilities import FloatArray

RESAMPLES = 1000
LEVEL = 0.95
ENOUGH = 0.5
"""Share of the resamples that must define a metric before an interval is given."""


@dataclass(frozen=True)
class Interval:
    """A metric with its interval; None if undefined. `skipped` counts resamples without a defined metric."""

    value: float | None
    low: float | None
    high: float | None
    skipped: int

    def record(self) -> dict[str, float | None]:
        """The public JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high}


def group_weights(groups: Sequence[str], seed: int, resamples: int = RESAMPLES) -> FloatArray:
    """Return how often each slide occurs in each resample.

    Parameters
    ----------
    groups
        n group names, one for each slide; slides of the same name stay together.
    seed, resamples
        Seed of the generator, and the number R of resamples, each of as many groups as there are, with replacement.

    Returns
    -------
    float64 (R, n), whole numbers.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return draws[:, member].astype(np.float64)


def ratio_interval(
    numerator: FloatArray, denominator: FloatArray | None, weights: FloatArray, n_groups: int
) -> Interval:
    """Interval of a sum over a sum: a mean over images, or over those that `denominator` counts.

    Parameters
    ----------
    numerator, denominator
        float64 (n,), at least 0 in the denominator; None counts every image once.
    weights, n_groups
        float64 (R, n) of `group_weights`, and the number of groups.

    Returns
    -------
    No value where nothing is counted; a resample that counts nothing is skipped.
    """
    counted = np.ones_like(numerator) if denominator is None else denominator
    totals = weights @ counted
    resampled = np.full(len(weights), np.nan)
    np.divide(weights @ numerator, totals, out=resampled, where=totals > 0)
    total = float(counted.sum())
    return percentile_interval(float(numerator.sum()) / total if total > 0 else math.nan, resampled, n_groups)


def percentile_interval(value: float, resampled: FloatArray, n_groups: int) -> Interval:
    """Interval of one metric.

    Parameters
    ----------
    value
        The metric of all slides; NaN where undefined.
    resampled
        float64 (R,), the metric of each resample; NaN where undefined, which is skipped and counted.
    n_groups
        Number of groups: of fewer than 2, all resamples are alike and say nothing, so no interval is given.

    Returns
    -------
    `LEVEL` of the defined resamples lie between `low` and `high`; no interval where fewer than `ENOUGH` are defined.
    """
    if math.isnan(value):
        return Interval(None, None, None, len(resampled))
    defined = resampled[~np.isnan(resampled)]
    skipped = len(resampled) - len(defined)
    if n_groups < 2 or len(defined) < ENOUGH * len(resampled):
        return Interval(value, None, None, skipped)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, (tail, 100 - tail))
    return Interval(value, float(low), float(high), skipped)
