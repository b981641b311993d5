"""Probabilities that mean what they say: one temperature, fitted on the validation part and kept with the model.

A network's probabilities are usually too sure. Dividing its logits by one number T makes them right on average and
changes no label. The conformal thresholds of `conformal` and the thresholds of `operating_point` are fitted to the
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
    """What a checkpoint keeps of its validation part.

    Parameters
    ----------
    labels
        int64 (n,), index of the true class.
    probabilities
        float (n, C), softmax of the network's logits; rows sum to 1.

    Returns
    -------
    A JSON object. `temperature` divides the logits; it is 1 and `temperature_fitted` is false where it cannot be
    fitted (fewer than `FEWEST_IMAGES` images, or all of them called right, which no finite temperature fits best).
    `nll` is the mean negative log-likelihood `before` and `after`. `conformal` holds one threshold for each coverage,
    as text, null where the images are too few for it; `conformal_method` names the score. `operating_points` holds
    for each class the thresholds of `sensitivity_thresholds`, null for a class without images. `validation_images`
    is n.

    Raises
    ------
    PredictionError : arrays that do not fit each other; see `metrics.checked`.
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
    """What the temperature did on the evaluated part.

    Parameters
    ----------
    labels, before, after
        int64 (n,), and float64 (n, C) as the network gives them and at its temperature.
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
    """The temperature with the least negative log-likelihood; None where there is none to find.

    Notes
    -----
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. With b = 1 / T and z the logits, the
    derivative of the mean negative log-likelihood is mean_i(sum_c p_ic(b) z_ic - z_iy), which rises with b, so its
    root is found by bisection. Logarithms of probabilities are logits: a softmax forgets what is added to a row.
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
    """Softmax of the logits over `temperature`: float64, shape of `probabilities` (..., C)."""
    logits = _logits(probabilities) / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    calibrated: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return calibrated


def calibrated(probabilities: FloatArray, calibration: Mapping[str, Any]) -> FloatArray:
    """Probabilities (..., C) at the temperature of a checkpoint; the very same ones where it has none."""
    temperature = calibration.get("temperature", 1.0)
    return probabilities if temperature == 1.0 else with_temperature(probabilities, temperature)


def log_losses(labels: IntArray, probabilities: FloatArray) -> FloatArray:
    """Negative log-likelihood of each image, nats: float64 (n,)."""
    losses: FloatArray = -np.take_along_axis(_logits(probabilities), labels[:, None], axis=1)[:, 0]
    return losses


def _logits(probabilities: FloatArray) -> FloatArray:
    logits: FloatArray = np.log(np.maximum(probabilities, SMALLEST))
    return logits
