"""Confidence intervals over patients: bootstrap, and exact intervals of shares where patients are few.

Slides of one patient are correlated, so patients are the units. Most intervals are percentile bootstrap over groups:
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, with groups as units. The calibration error
grows when slides are repeated, so its interval for a small or well calibrated cohort may lie above its value.

The bootstrap of a share is too narrow for a small sample, and of width 0 where all or none are counted. There the
interval is that of Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
binomial, Biometrika 1934, with the number of groups as the number of trials: slides of one patient count as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_attn.models.probabilities import FloatArray, IntArray

RESAMPLES = 1000
LEVEL = 0.95
ENOUGH = 0.5
"""Share of the resamples that must define a metric before an interval is given."""

FEWEST_GROUPS = 3
"""Groups that an interval needs: the few resamples of two groups say nothing of a third."""

FEW_GROUPS = 40
"""Shares over fewer groups have exact intervals."""


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


@dataclass(frozen=True)
class Resamples:
    """Bootstrap resamples of the groups of n slides.

    Attributes
    ----------
    member
        int64 (n,), number of each slide's group, from 0.
    weights
        float64 (R, n), whole numbers: how often each slide occurs in each resample.
    """

    member: IntArray
    weights: FloatArray

    @cached_property
    def groups(self) -> int:
        """Number of groups."""
        return len(np.unique(self.member))


def resample_groups(groups: Sequence[str], seed: int, resamples: int = RESAMPLES) -> Resamples:
    """Draw resamples, each of as many groups as there are, with replacement.

    Parameters
    ----------
    groups
        n group names, one for each slide; slides of the same name stay together.
    seed, resamples
        Seed of the generator, and the number R of resamples.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return Resamples(member, draws[:, member].astype(np.float64))


def share_interval(part: NDArray[np.bool_], whole: NDArray[np.bool_], resamples: Resamples) -> Interval:
    """Interval of the share of the slides of `whole` that belong to `part`.

    Parameters
    ----------
    part, whole
        bool (n,).

    Returns
    -------
    Exact if fewer than `FEW_GROUPS` groups have slides in `whole`, and if all or none of the slides belong to
    `part`; a bootstrap interval otherwise. No value where `whole` is empty.
    """
    counted = whole.astype(np.float64)
    found = ratio_interval(part * counted, counted, resamples)
    groups = len(np.unique(resamples.member[whole]))
    if found.value is None or groups < FEWEST_GROUPS:
        return Interval(found.value, None, None, found.skipped)
    if groups >= FEW_GROUPS and 0 < found.value < 1:
        return found
    return Interval(found.value, *clopper_pearson(found.value * groups, groups), 0)


def clopper_pearson(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a binomial share.

    Parameters
    ----------
    successes, trials
        0 to `trials`, and more than 0. Fractions are allowed, for groups that are partly counted; Korn and Graubard,
        Confidence intervals for proportions with small expected number of positive counts estimated from survey data,
        Survey Methodology 1998, use them with an effective number of trials.
    """
    from scipy.stats import beta

    tail, failures = (1 - level) / 2, trials - successes
    low = float(beta.ppf(tail, successes, failures + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, failures)) if failures > 0 else 1.0
    return low, high


def ratio_interval(numerator: FloatArray, denominator: FloatArray | None, resamples: Resamples) -> Interval:
    """Interval of a sum over a sum: a mean over images, or over those that `denominator` counts.

    Parameters
    ----------
    numerator, denominator
        float64 (n,), at least 0 in the denominator; None counts every image once.

    Returns
    -------
    No value where nothing is counted; a resample that counts nothing is skipped.
    """
    counted = np.ones_like(numerator) if denominator is None else denominator
    totals = resamples.weights @ counted
    resampled = np.full(len(totals), np.nan)
    np.divide(resamples.weights @ numerator, totals, out=resampled, where=totals > 0)
    total = float(counted.sum())
    return percentile_interval(float(numerator.sum()) / total if total > 0 else math.nan, resampled, resamples.groups)


def percentile_interval(value: float, resampled: FloatArray, n_groups: int, level: float = LEVEL) -> Interval:
    """Interval of one metric.

    Parameters
    ----------
    value
        The metric of all slides; NaN where undefined.
    resampled
        float64 (R,), the metric of each resample; NaN where undefined, which is skipped and counted.
    n_groups
        Number of groups; of fewer than `FEWEST_GROUPS` no interval is given.

    Returns
    -------
    `level` of the defined resamples lie between `low` and `high`; no interval where fewer than `ENOUGH` are defined.
    """
    if math.isnan(value):
        return Interval(None, None, None, len(resampled))
    defined = resampled[~np.isnan(resampled)]
    skipped = len(resampled) - len(defined)
    if n_groups < FEWEST_GROUPS or len(defined) < ENOUGH * len(resampled):
        return Interval(value, None, None, skipped)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(defined, (tail, 100 - tail))
    return Interval(value, float(low), float(high), skipped)
