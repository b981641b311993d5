"""Out-of-distribution check: tissue colour of an input compared with that of the training set.

Four numbers describe an input: two log-ratios of the mean optical densities (which dye), the log of their sum (how
much of it) and the log of the deviation of density (contrast). A model stores their mean and covariance over its
training inputs, and accepts inputs up to slightly more than the Mahalanobis distance that covers 99 % of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_attn.models.spec import Appearance
from wsi_attn.slide import UInt8Array

COVERED, MARGIN = 0.99, 1.15
"""The limit is the distance that covers this share of the training inputs, times the margin."""

DOUBTFUL = 0.8
"""Inputs beyond this share of the limit are predicted with a warning."""

MIN_DEVIATION = 0.05
"""Minimum standard deviation of each number (natural log), because one laboratory underestimates the variation."""

MIN_LIMIT = 1.0
"""Minimum limit, for training inputs that are nearly identical."""

SAMPLE = 2_000_000
"""Maximum number of sampled pixels, on a lattice; enough for four means at any slide size."""


def describe_appearance(pixels: UInt8Array, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Describe the tissue colour of an input.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3), the coarse view.
    mask
        bool (rows, columns), pixels to use; all if none is set.

    Returns
    -------
    float64 (4,): log OD_R/OD_G, log OD_B/OD_G, log of the summed OD, log of the OD's deviation.
    """
    step = max(1, math.isqrt(mask.size // SAMPLE))
    pixels, mask = pixels[::step, ::step], mask[::step, ::step]
    chosen = pixels[mask] if mask.any() else pixels.reshape(-1, 3)
    density = -np.log((chosen.astype(np.float64) + 1) / 256)  # (n, 3), natural optical density
    red, green, blue = density.mean(axis=0) + 1e-3
    spread = density.sum(axis=1).std() + 1e-3
    return np.asarray(np.log([red / green, blue / green, red + green + blue, spread]), np.float64)


def fit_appearance(descriptions: Sequence[NDArray[np.float64]]) -> Appearance:
    """Return mean, precision and limit of the training inputs."""
    samples = np.stack(descriptions)
    mean = np.asarray(samples.mean(axis=0), np.float64)
    covariance = np.cov(samples, rowvar=False) if len(samples) > 1 else np.zeros((samples.shape[1],) * 2)
    precision = np.asarray(np.linalg.inv(covariance + np.eye(len(mean)) * MIN_DEVIATION**2), np.float64)
    distances = [_distance(sample, mean, precision) for sample in samples]
    limit = max(MIN_LIMIT, MARGIN * float(np.quantile(distances, COVERED)))
    return Appearance(tuple(mean.tolist()), tuple(precision.ravel().tolist()), limit)


def appearance_distance(description: NDArray[np.float64], appearance: Appearance) -> float:
    """Return the distance of an input from the training set in units of the limit; above 1 is out of distribution."""
    mean = np.asarray(appearance.mean)
    precision = np.asarray(appearance.precision).reshape(len(mean), len(mean))
    return _distance(description, mean, precision) / appearance.limit


def _distance(x: NDArray[np.float64], mean: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    return float(np.sqrt((x - mean) @ precision @ (x - mean)))
