"""Resampling of imbalanced classes: how often an epoch shows an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POWERS = {"none": 1.0, "root": 0.5, "balanced": 0.0}
"""Share of a class in an epoch: proportional to this power of its share of the images."""


def resampled(classes: NDArray[np.int64], kind: str, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the images that an epoch shows, as many as the set has, in arbitrary order.

    "none" shows each once; "balanced" shows all classes equally often, "root" halfway between. Within a class
    the counts of images differ by at most one: images of a rare class repeat, a random part of a common class is
    skipped.

    Parameters
    ----------
    classes
        int64 (n,), class of each image.

    Returns
    -------
    int64 (n,): i is image i, i + n its second showing, i + 2 n its third, so that each can be augmented differently.
    """
    total = len(classes)
    if kind == "none":
        return np.arange(total)
    present, counts = np.unique(classes, return_counts=True)
    chosen = []
    for name, quota in zip(present, _quotas(counts, total, POWERS[kind]), strict=True):
        members = np.flatnonzero(classes == name)
        rounds, rest = divmod(int(quota), len(members))
        chosen += [members + showing * total for showing in range(rounds)]
        chosen.append(generator.permutation(members)[:rest] + rounds * total)
    return np.concatenate(chosen)


def _quotas(counts: NDArray[np.int64], total: int, power: float) -> NDArray[np.int64]:
    """Return the images per class in an epoch, proportional to a power of the class size; they sum to `total`."""
    shares = counts**power
    exact = total * shares / shares.sum()
    quotas: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    largest = np.argsort(quotas - exact, kind="stable")[: total - int(quotas.sum())]
    quotas[largest] += 1
    return quotas
