"""Statistics of the experiments: estimates over seeds and groups, and paired differences.

A result depends on the test patients and on the seed of training. Each of the `RESAMPLES` draws groups of the test set
and seeds together, both with replacement. Two arms see the same draws (paired bootstrap); their differences over the
seeds that both have are corrected for the number of contrasts of a table by Holm, A simple sequentially rejective
multiple test procedure, Scandinavian Journal of Statistics 1979.

Few seeds vary less in resamples than in truth, by the factor 1 - 1 / seeds of their variance, so intervals of three
seeds are somewhat narrow. Of fewer than three groups there are no intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.answers import Answers, FloatArray
from wsi_attn.evaluate.intervals import (
    FEW_GROUPS,
    FEWEST_GROUPS,
    LEVEL,
    Interval,
    clopper_pearson,
    percentile_interval,
    resample_groups,
)

RESAMPLES = 4000


@dataclass(frozen=True)
class Draws:
    """Draws of the groups of a test set.

    Attributes
    ----------
    weights
        float64 (1 + R, n), weights of the rows; the first are the rows themselves.
    names
        n names of groups.
    """

    weights: FloatArray
    names: tuple[str, ...]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(set(self.names))

    @classmethod
    def of(cls, groups: Sequence[str], resamples: int = RESAMPLES) -> Draws:
        """Draw the groups of n rows."""
        drawn = resample_groups(groups, 0, resamples)
        return cls(np.concatenate([np.ones((1, len(groups))), drawn.weights]), tuple(groups))

    def seeds(self, count: int) -> FloatArray:
        """Shares of each seed in each draw, float64 (1 + R, count); the first is even, and the same for every arm."""
        drawn = np.random.default_rng([1, count]).multinomial(count, np.full(count, 1 / count), len(self.weights) - 1)
        return np.concatenate([np.full((1, count), 1 / count), drawn / count])


@dataclass(frozen=True)
class Contrast:
    """A difference between two arms.

    Attributes
    ----------
    interval
        The difference and its interval, not corrected.
    corrected
        The interval at the level that Holm's procedure requires of this contrast.
    p, p_corrected
        Two-sided bootstrap p-value, as it is and corrected.
    seeds
        Number of seeds that both arms have.
    """

    interval: Interval
    corrected: Interval
    p: float
    p_corrected: float
    seeds: int


def measured(answers: Mapping[int, Answers], name: str, draws: Draws) -> dict[int, FloatArray]:
    """Return a measure of the answers of each seed in every draw, float64 (1 + R,) each."""
    return {seed: each.measured(name, draws.weights) for seed, each in sorted(answers.items())}


def over_seeds(values: Sequence[FloatArray], draws: Draws) -> FloatArray:
    """Return the mean over the drawn seeds in every draw, float64 (1 + R,), of S arrays."""
    mean: FloatArray = (draws.seeds(len(values)) * np.stack(values, axis=1)).sum(axis=1)
    return mean


def estimate(answers: Mapping[int, Answers], name: str, draws: Draws) -> Interval:
    """Return the mean over seeds of a measure and its interval.

    The interval of a share of few groups is exact, see `evaluate.intervals.share_interval`, with the mean of the seeds
    as the share.
    """
    drawn = over_seeds([*measured(answers, name, draws).values()], draws)
    found = percentile_interval(float(drawn[0]), drawn[1:], draws.groups)
    counted = next(iter(answers.values())).counted(name)
    if counted is None or found.value is None:
        return found
    groups = len({group for group, one in zip(draws.names, counted, strict=True) if one})
    if groups < FEWEST_GROUPS:
        return Interval(found.value, None, None, found.skipped)
    if groups >= FEW_GROUPS and 0 < found.value < 1:
        return found
    return Interval(found.value, *clopper_pearson(found.value * groups, groups), 0)


def contrasts(
    of: Mapping[int, FloatArray], others: Mapping[str, Mapping[int, FloatArray]], draws: Draws
) -> dict[str, Contrast]:
    """Compare one arm with others: its value minus theirs, over the seeds that both have.

    Parameters
    ----------
    of, others
        `measured` of the arm and, by name, of those it is compared with.
    """
    pairs = {name: sorted(set(of) & set(other)) for name, other in others.items()}
    drawn = {
        name: over_seeds([of[seed] - others[name][seed] for seed in seeds], draws)
        for name, seeds in pairs.items()
        if seeds
    }
    p = {name: p_value(values[1:], draws.groups) for name, values in drawn.items()}
    corrected, levels = holm(p)
    return {
        name: Contrast(
            percentile_interval(float(values[0]), values[1:], draws.groups),
            percentile_interval(float(values[0]), values[1:], draws.groups, levels[name]),
            p[name],
            corrected[name],
            len(pairs[name]),
        )
        for name, values in drawn.items()
    }


def p_value(differences: FloatArray, groups: int) -> float:
    """Two-sided p-value of resampled differences, by the smaller share of them at either side of 0; NaN if too few.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 15; 1 is added to either count, so that no
    number of resamples gives 0.
    """
    defined = differences[~np.isnan(differences)]
    if groups < FEWEST_GROUPS or not len(defined):
        return math.nan
    below, above = (defined <= 0).sum(), (defined >= 0).sum()
    return min(1.0, 2 * (1 + float(min(below, above))) / (1 + len(defined)))


def holm(p: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the corrected p-values, and the level of each contrast's interval.

    The k-th smallest of m p-values is multiplied by m - k + 1, and no corrected value is below an earlier one. The
    interval of a contrast has the level 1 - 0.05 / (m - k + 1); once one contrast is not significant, the others keep
    its level, as the procedure stops there.
    """
    order = sorted((name for name in p if not math.isnan(p[name])), key=lambda name: p[name])
    corrected, levels = dict.fromkeys(p, math.nan), dict.fromkeys(p, LEVEL)
    least, stopped = 0.0, None
    for rank, name in enumerate(order):
        left = len(order) - rank
        least = corrected[name] = min(1.0, max(least, p[name] * left))
        levels[name] = stopped or 1 - (1 - LEVEL) / left
        if least > 1 - LEVEL and stopped is None:
            stopped = levels[name]
    return corrected, levels
