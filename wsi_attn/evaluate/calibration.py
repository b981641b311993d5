"""Temperature scaling: a temperature fitted on the validation set and stored with the model.

Networks are usually overconfident. Dividing the logits by a temperature T corrects this on average without changing
labels. The conformal thresholds of `conformal` and the thresholds of `operating_point` are fitted to the
probabilities after the temperature, which are those that `predict` reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.conformal import METHOD, conformal_thresholds
from wsi_attn.evaluate.curves import reliability
from wsi_attn.evaluate.intervals import percentile_interval, ratio_interval
from wsi_attn.evaluate.metrics import FloatArray, IntArray, checked, expected_calibration_error, squared_errors
from wsi_attn.evaluate.operating_point import sensitivity_thresholds
from wsi_attn.evaluate.resampled import resampled_scores

FEWEST_IMAGES = 10
"""Of fewer images a temperature says more about chance than about the model: it stays 1."""

BOUNDS = (0.05, 20.0)
"""Smallest and largest temperature."""

SMALLEST = float(np.finfo(np.float64).tiny)
"""Stands for a probability of 0, whose logarithm is not finite."""


def fit_calibration(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, Any]:
    """Fit everything that a checkpoint stores about its validation set.

    Parameters
    ----------
    labels
        int64 (n,), index of the true class.
    probabilities
        float (n, C), softmax of the network's logits; rows sum to 1.

    Returns
    -------
    A JSON object. `temperature` divides the logits; it is 1 and `temperature_fitted` is false if it cannot be
    fitted (fewer than `FEWEST_IMAGES` images, or no errors, for which no finite temperature is optimal).
    `nll` is the mean negative log-likelihood `before` and `after`. `conformal` holds one threshold per coverage
    (as text), null if there are too few images; `conformal_method` names the score. `operating_points` holds
    for each class the thresholds of `sensitivity_thresholds`, null for a class without images. `validation_images`
    is n.

    Raises
    ------
    PredictionError : arrays of different lengths; see `metrics.checked`.
    """
    shape = np.shape(probabilities)
    if len(shape) != 2:
        raise PredictionError(f"Cannot calibrate: probabilities have shape {shape}, expected images by classes")
    y, before = checked(labels, probabilities, [str(c) for c in range(shape[1])])
    fitted = fit_temperature(y, before)
    temperature = 1.0 if fitted is None else fitted
    after = with_temperature(before, temperature)
    return {
        "temperature": temperature,
        "temperature_fitted": fitted is not None,
        "nll": {"before": float(log_losses(y, before).mean()), "after": float(log_losses(y, after).mean())},
        "validation_images": int(y.size),
        "conformal": conformal_thresholds(y, after),
        "conformal_method": METHOD,
        "operating_points": sensitivity_thresholds(y, after),
    }


def calibration_section(
    labels: IntArray, before: FloatArray, after: FloatArray, weights: FloatArray, n_groups: int
) -> dict[str, Any]:
    """Return the effect of the temperature on the evaluated split.

    Parameters
    ----------
    labels, before, after
        int64 (n,), and float64 (n, C) uncalibrated and calibrated.
    weights, n_groups
        float64 (R, n) of `intervals.group_weights`, and the number of groups.

    Returns
    -------
    `before` and `after`, each with `ece`, `brier` and `nll` as `{value, low, high}` and the `reliability` bins.
    """
    return {
        name: {
            **_errors(labels, probabilities, weights, n_groups),
            "reliability": reliability(labels, probabilities),
        }
        for name, probabilities in (("before", before), ("after", after))
    }


def _errors(labels: IntArray, probabilities: FloatArray, weights: FloatArray, n_groups: int) -> dict[str, Any]:
    called = probabilities.argmax(axis=1) == labels
    error = expected_calibration_error(called, probabilities.max(axis=1))
    resampled, _ = resampled_scores(labels, probabilities, weights)
    means = {"brier": squared_errors(labels, probabilities), "nll": log_losses(labels, probabilities)}
    return {
        "ece": percentile_interval(error, resampled["ece"], n_groups).record(),
        **{name: ratio_interval(values, None, weights, n_groups).record() for name, values in means.items()},
    }


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


def with_temperature(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Return the softmax of the logits divided by `temperature`: float64, shape of `probabilities` (..., C)."""
    logits = _logits(probabilities) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    calibrated: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return calibrated


def calibrated(probabilities: FloatArray, calibration: Mapping[str, Any]) -> FloatArray:
    """Return probabilities (..., C) at the temperature of a checkpoint; unchanged if it has none."""
    temperature = calibration.get("temperature", 1.0)
    return probabilities if temperature == 1.0 else with_temperature(probabilities, temperature)


def log_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Negative log-likelihood of each image, nats: float64 (n,)."""
    losses: FloatArray = -np.take_along_axis(_logits(probabilities), labels[:, None], axis=1)[:, 0]
    return losses


def _logits(probabilities: FloatArray) -> FloatArray:
    logits: FloatArray = np.log(np.maximum(probabilities, SMALLEST))
    return logits
