"""Temperature scaling: a temperature fitted on the validation set and stored with the model.

Networks are usually overconfident. Dividing the logits by a temperature T corrects this on average without changing
labels. The conformal thresholds of `conformal` and the thresholds of `operating_point` are fitted to the
probabilities after the temperature, which are those that `predict` reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from wsi_attn.errors import PredictionError
from wsi_attn.models.conformal import METHOD, conformal_thresholds
from wsi_attn.models.operating_point import sensitivity_thresholds
from wsi_attn.models.probabilities import FloatArray, IntArray, checked

FEWEST_IMAGES = 10
"""Of fewer images a temperature says more about chance than about the model: it stays 1."""

BOUNDS = (0.05, 20.0)
"""Smallest and largest temperature."""

SMALLEST = float(np.finfo(np.float64).tiny)
"""Stands for a probability of 0, whose logarithm is not finite."""


@dataclass(frozen=True)
class LogLosses:
    """Mean negative log-likelihood of the validation set, nats, `before` and `after` the temperature."""

    before: float
    after: float


@dataclass(frozen=True)
class Calibration:
    """What a checkpoint stores about its validation set; by default that of an uncalibrated model.

    Attributes
    ----------
    temperature
        Divides the logits.
    temperature_fitted
        False if the temperature is 1 because it cannot be fitted: fewer than `FEWEST_IMAGES` images, or no errors,
        for which no finite temperature is optimal.
    nll
        None if uncalibrated.
    validation_images
        n; 0 if uncalibrated.
    conformal
        Threshold of each coverage, by the coverage as text; None if there are too few images for it.
    conformal_method
        Name of the conformal score.
    operating_points
        For each class the thresholds of `sensitivity_thresholds`; None for a class without images.
    """

    temperature: float = 1.0
    temperature_fitted: bool = False
    nll: LogLosses | None = None
    validation_images: int = 0
    conformal: dict[str, float | None] = field(default_factory=dict)
    conformal_method: str = METHOD
    operating_points: tuple[tuple[float, ...] | None, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature: {self.temperature} is not a positive number")

    @property
    def fitted(self) -> bool:
        """Whether there was a validation set."""
        return self.validation_images > 0


def fit_calibration(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Fit everything that a checkpoint stores about its validation set.

    Parameters
    ----------
    labels
        int64 (n,), index of the true class.
    probabilities
        float (n, C), softmax of the network's logits; rows sum to 1.

    Raises
    ------
    PredictionError : arrays of different lengths; see `probabilities.checked`.
    """
    shape = np.shape(probabilities)
    if len(shape) != 2:
        raise PredictionError(f"Cannot calibrate: probabilities have shape {shape}, expected images by classes")
    y, before = checked(labels, probabilities, [str(c) for c in range(shape[1])])
    fitted = fit_temperature(y, before)
    temperature = 1.0 if fitted is None else fitted
    after = with_temperature(before, temperature)
    return Calibration(
        temperature,
        fitted is not None,
        LogLosses(float(log_losses(y, before).mean()), float(log_losses(y, after).mean())),
        int(y.size),
        conformal_thresholds(y, after),
        METHOD,
        sensitivity_thresholds(y, after),
    )


def fit_temperature(labels: IntArray, probabilities: FloatArray) -> float | None:
    """Return the temperature with the least negative log-likelihood; None if it does not exist.

    Notes
    -----
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. With b = 1 / T and z the logits,
    the derivative of the mean negative log-likelihood is mean_i(sum_c p_ic(b) z_ic - z_iy), which rises with b, so
    its root is found by bisection. Logarithms of probabilities serve as logits, because the softmax is invariant to
    adding a constant.
    """
    logits = _logits(probabilities)
    true = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    if labels.size < FEWEST_IMAGES or (true >= logits.max(axis=1)).all():
        return None

    def slope(inverse: float) -> float:
        return float(((with_temperature(probabilities, 1 / inverse) * logits).sum(axis=1) - true).mean())

    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def refined(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Return probabilities at their own best temperature, which removes what `fit_calibration` will correct.

    Their loss compares epochs of a training by what they tell apart and not by their confidence (Berta, Holzmüller,
    Jordan, Bach, "Rethinking Early Stopping: Refine, Then Calibrate", arXiv 2501.19195). Predictions without errors
    have the lowest temperature, and those of fewer than `FEWEST_IMAGES` images are unchanged.
    """
    if labels.size < FEWEST_IMAGES:
        return probabilities
    return with_temperature(probabilities, fit_temperature(labels, probabilities) or BOUNDS[0])


def with_temperature(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Return the softmax of the logits divided by `temperature`: float64, shape of `probabilities` (..., C)."""
    logits = _logits(probabilities) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    calibrated: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return calibrated


def calibrated(probabilities: FloatArray, calibration: Calibration) -> FloatArray:
    """Return probabilities (..., C) at the temperature of a checkpoint; unchanged if it has none."""
    temperature = calibration.temperature
    return probabilities if temperature == 1.0 else with_temperature(probabilities, temperature)


def log_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Negative log-likelihood of each image, nats: float64 (n,)."""
    losses: FloatArray = -np.take_along_axis(_logits(probabilities), labels[:, None], axis=1)[:, 0]
    return losses


def _logits(probabilities: FloatArray) -> FloatArray:
    logits: FloatArray = np.log(np.maximum(probabilities, SMALLEST))
    return logits
