"""Report sections on calibration, prediction sets and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.evaluate.curves import reliability
from wsi_attn.evaluate.intervals import Resamples, percentile_interval, ratio_interval, share_interval
from wsi_attn.evaluate.metrics import expected_calibration_error, squared_errors
from wsi_attn.evaluate.resampled import resampled_scores
from wsi_attn.json_types import JsonObject
from wsi_attn.models.calibration import Calibration, log_losses
from wsi_attn.models.conformal import METHOD, in_set
from wsi_attn.models.operating_point import threshold_for
from wsi_attn.models.probabilities import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

SETS = "A set holds every label with a probability of at least 1 - threshold."
NO_GUARANTEE = "The threshold is the mean of the folds': it carries no guarantee, only the measured coverage counts."


@dataclass(frozen=True)
class OperatingPoint:
    """A target sensitivity for one label, and the probability threshold of the label."""

    positive: str
    sensitivity: float
    threshold: float


def choose_operating_point(
    calibrations: Sequence[Calibration], labels: Sequence[str], positive: str, sensitivity: float
) -> OperatingPoint:
    """Return the operating point of a checkpoint, or the mean threshold of several; errors as in `threshold_for`."""
    found = [threshold_for(calibration.operating_points, labels, positive, sensitivity) for calibration in calibrations]
    return OperatingPoint(positive, sensitivity, float(np.mean(found)))


def calibration_section(
    labels: IntArray, before: FloatArray, after: FloatArray, resamples: Resamples, calibrations: Sequence[Calibration]
) -> JsonObject:
    """Return the effect of the temperature on the evaluated split.

    Parameters
    ----------
    labels, before, after
        int64 (n,), and float64 (n, C) uncalibrated and calibrated.
    resamples
        Of the n images.
    calibrations
        `ModelSpec.calibration` of each checkpoint; several are folds whose probabilities were averaged.

    Returns
    -------
    `temperature` and `validation_images`, lists if there are folds; `note`; `before` and `after`, each with `ece`,
    `brier` and `nll` as `{value, low, high}` and the `reliability` bins.
    """
    temperatures = [calibration.temperature for calibration in calibrations]
    images = [calibration.validation_images for calibration in calibrations]
    folds = len(calibrations) > 1
    return {
        "temperature": temperatures if folds else temperatures[0],
        "validation_images": images if folds else images[0],
        "note": _temperature_note(calibrations),
        "before": _calibration_errors(labels, before, resamples),
        "after": _calibration_errors(labels, after, resamples),
    }


def images_of(calibrations: Sequence[Calibration]) -> str:
    """Return the number of validation images of each checkpoint in words."""
    return f"{' + '.join(str(calibration.validation_images) for calibration in calibrations)} validation images"


def _temperature_note(calibrations: Sequence[Calibration]) -> str:
    kept = sum(not calibration.temperature_fitted for calibration in calibrations)
    if not kept:
        return f"Fitted on {images_of(calibrations)}."
    return (
        f"Kept at 1 for {kept} of {len(calibrations)} models: too few validation images, or all of them called right."
    )


def _calibration_errors(labels: IntArray, probabilities: FloatArray, resamples: Resamples) -> JsonObject:
    called = probabilities.argmax(axis=1) == labels
    error = expected_calibration_error(called, probabilities.max(axis=1))
    resampled, _ = resampled_scores(labels, probabilities, resamples.weights)
    return {
        "ece": percentile_interval(error, resampled["ece"], resamples.groups).record(),
        "brier": ratio_interval(squared_errors(labels, probabilities), None, resamples).record(),
        "nll": ratio_interval(log_losses(labels, probabilities), None, resamples).record(),
        "reliability": reliability(labels, probabilities),
    }


def conformal_section(
    labels: IntArray,
    probabilities: FloatArray,
    thresholds: Mapping[str, float | None],
    resamples: Resamples,
    calibrations: Sequence[Calibration],
) -> JsonObject:
    """Return the measured coverage and size of the sets.

    Parameters
    ----------
    labels, probabilities
        int64 (n,) and float64 (n, C) of the evaluated split.
    thresholds
        Result of `mean_thresholds` for the checkpoints.
    resamples, calibrations
        See `calibration_section`.

    Returns
    -------
    `note`, `method`, and in `coverages` for each coverage its `threshold` and, as `{value, low, high}`, the measured
    `coverage`, the mean `set_size` and the share `unsure` of sets that do not hold exactly one label; only
    `threshold`, null, where validation images were too few.
    """
    folds = f" {NO_GUARANTEE}" if len(calibrations) > 1 else ""
    coverages = {
        name: _measured_coverage(labels, probabilities, threshold, resamples) for name, threshold in thresholds.items()
    }
    return {
        "note": f"From {images_of(calibrations)}. {SETS}{folds}",
        "method": METHOD,
        "coverages": coverages,
    }


def _measured_coverage(
    labels: IntArray, probabilities: FloatArray, threshold: float | None, resamples: Resamples
) -> JsonObject:
    if threshold is None:
        return {"threshold": None}
    members = in_set(probabilities, threshold)
    size = members.sum(axis=1)
    held, every = np.take_along_axis(members, labels[:, None], axis=1)[:, 0], np.full(len(members), True)
    return {
        "threshold": threshold,
        "coverage": share_interval(held, every, resamples).record(),
        "set_size": ratio_interval(size.astype(np.float64), None, resamples).record(),
        "unsure": share_interval(size != 1, every, resamples).record(),
    }


def operating_section(
    positive: BoolArray, score: FloatArray, point: OperatingPoint, resamples: Resamples, chosen_on: str
) -> JsonObject:
    """Return the performance of a threshold on the evaluated split.

    Parameters
    ----------
    positive, score
        bool (n,), whether an image has the label, and float64 (n,), the label's probability; predicted positive if the
        score is at least the threshold.
    resamples
        Of the n images.
    chosen_on
        What the threshold was chosen on.

    Returns
    -------
    `positive`, `wanted_sensitivity`, `chosen_on`, `threshold`; `sensitivity`, `specificity`, `precision` and
    `negative_predictive_value` as `{value, low, high}`.
    """
    called = score >= point.threshold

    def share(part: BoolArray, whole: BoolArray) -> dict[str, float | None]:
        return share_interval(part, whole, resamples).record()

    return {
        "positive": point.positive,
        "wanted_sensitivity": point.sensitivity,
        "chosen_on": chosen_on,
        "threshold": point.threshold,
        "sensitivity": share(positive & called, positive),
        "specificity": share(~positive & ~called, ~positive),
        "precision": share(positive & called, called),
        "negative_predictive_value": share(~positive & ~called, ~called),
    }
