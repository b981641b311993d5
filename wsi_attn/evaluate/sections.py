"""Report sections on calibration, prediction sets and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from wsi_attn.evaluate.curves import reliability
from wsi_attn.evaluate.intervals import (
    Resamples,
    percentile_interval,
    ratio_interval,
    resample_groups,
    share_interval,
)
from wsi_attn.evaluate.metrics import expected_calibration_error, squared_errors
from wsi_attn.evaluate.resampled import resampled_scores
from wsi_attn.models.calibration import Calibration, log_losses
from wsi_attn.models.conformal import METHOD, in_set, mean_thresholds
from wsi_attn.models.operating_point import threshold_for
from wsi_attn.models.probabilities import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

Estimate = dict[str, float | None]
"""`value`, `low` and `high`, see `Interval.record`."""

SETS = "A set holds every label with a probability of at least 1 - threshold."
NO_GUARANTEE = "The threshold is the mean of the folds': it carries no guarantee, only the measured coverage counts."


class CalibrationErrors(TypedDict):
    """Errors of probabilities on the evaluated split, and their reliability bins."""

    ece: Estimate
    brier: Estimate
    nll: Estimate
    reliability: list[dict[str, float]]


class BeforeAfter(TypedDict):
    """Uncalibrated and calibrated probabilities."""

    before: CalibrationErrors
    after: CalibrationErrors


class CalibrationSection(BeforeAfter):
    """The section `calibration`; temperature and number of images are lists if there are folds."""

    temperature: float | list[float]
    validation_images: int | list[int]
    note: str


class Coverage(TypedDict):
    """Prediction sets of one nominal coverage: the threshold, and what was measured if there is one."""

    threshold: float | None
    coverage: NotRequired[Estimate]
    set_size: NotRequired[Estimate]
    unsure: NotRequired[Estimate]


class Coverages(TypedDict):
    """Prediction sets by nominal coverage."""

    method: str
    coverages: dict[str, Coverage]


class ConformalSection(Coverages):
    """The section `conformal`."""

    note: str


class ThresholdMeasures(TypedDict):
    """Performance of a threshold."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    negative_predictive_value: Estimate


class OperatingSection(ThresholdMeasures):
    """The section `operating_point`."""

    positive: str
    wanted_sensitivity: float
    chosen_on: str


class CalibrationSections(TypedDict, total=False):
    """The sections of models with calibration data."""

    calibration: CalibrationSection
    conformal: ConformalSection
    operating_point: OperatingSection


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


def calibration_sections(
    labels: IntArray,
    before: FloatArray,
    after: FloatArray,
    names: Sequence[str],
    groups: Sequence[str],
    seed: int,
    calibrations: Sequence[Calibration],
    operating_point: OperatingPoint | None = None,
) -> CalibrationSections:
    """Evaluate calibration, prediction sets and operating point on the evaluated split.

    Parameters
    ----------
    labels, before, after
        int64 (n,), and float64 (n, C), uncalibrated and calibrated.
    names, groups, seed
        C class names, n patients, seed of the resampling.
    calibrations
        `ModelSpec.calibration` of each checkpoint; several are folds whose probabilities were averaged.

    Returns
    -------
    `calibration`, `conformal` and `operating_point`, if the checkpoints contain the data.
    """
    if not all(calibration.fitted for calibration in calibrations):
        return {}
    resamples = resample_groups(groups, seed)
    images = [calibration.validation_images for calibration in calibrations]
    said = f"{' + '.join(map(str, images))} validation images"
    folds = len(calibrations) > 1
    temperatures = [calibration.temperature for calibration in calibrations]
    sections: CalibrationSections = {
        "calibration": {
            "temperature": temperatures if folds else temperatures[0],
            "validation_images": images if folds else images[0],
            "note": _temperature_note(calibrations, said),
            **calibration_section(labels, before, after, resamples),
        }
    }
    thresholds = mean_thresholds([calibration.conformal for calibration in calibrations])
    sections["conformal"] = {
        "note": f"From {said}. {SETS}{' ' + NO_GUARANTEE if folds else ''}",
        **conformal_section(labels, after, thresholds, resamples),
    }
    if operating_point is not None:
        c = list(names).index(operating_point.positive)
        sections["operating_point"] = {
            "positive": operating_point.positive,
            "wanted_sensitivity": operating_point.sensitivity,
            "chosen_on": said,
            **operating_section(labels == c, after[:, c], operating_point.threshold, resamples),
        }
    return sections


def _temperature_note(calibrations: Sequence[Calibration], said: str) -> str:
    kept = sum(not calibration.temperature_fitted for calibration in calibrations)
    if not kept:
        return f"Fitted on {said}."
    return (
        f"Kept at 1 for {kept} of {len(calibrations)} models: too few validation images, or all of them called right."
    )


def calibration_section(labels: IntArray, before: FloatArray, after: FloatArray, resamples: Resamples) -> BeforeAfter:
    """Return the effect of the temperature on the evaluated split.

    Parameters
    ----------
    labels, before, after
        int64 (n,), and float64 (n, C) uncalibrated and calibrated.
    resamples
        Result of `intervals.resample_groups`.

    Returns
    -------
    `before` and `after`, each with `ece`, `brier` and `nll` as `{value, low, high}` and the `reliability` bins.
    """
    return {
        "before": _calibration_errors(labels, before, resamples),
        "after": _calibration_errors(labels, after, resamples),
    }


def _calibration_errors(labels: IntArray, probabilities: FloatArray, resamples: Resamples) -> CalibrationErrors:
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
) -> Coverages:
    """Return the measured coverage and size of the sets.

    Parameters
    ----------
    labels, probabilities
        int64 (n,) and float64 (n, C) of the evaluated split.
    thresholds
        Result of `conformal_thresholds` for the validation set.
    resamples
        Result of `intervals.resample_groups`.

    Returns
    -------
    `method`, and in `coverages` for each coverage its `threshold` and, as `{value, low, high}`, the measured
    `coverage`, the mean `set_size` and the share `unsure` of sets that do not hold exactly one label; only
    `threshold`, null, where validation images were too few.
    """
    return {
        "method": METHOD,
        "coverages": {
            name: _measured_coverage(labels, probabilities, threshold, resamples)
            for name, threshold in thresholds.items()
        },
    }


def _measured_coverage(
    labels: IntArray, probabilities: FloatArray, threshold: float | None, resamples: Resamples
) -> Coverage:
    if threshold is None:
        return {"threshold": None}
    members = in_set(probabilities, threshold)
    size = members.sum(axis=1)

    def share(held: BoolArray) -> Estimate:
        return share_interval(held, np.full(held.size, True), resamples).record()

    return {
        "threshold": threshold,
        "coverage": share(np.take_along_axis(members, labels[:, None], axis=1)[:, 0]),
        "set_size": ratio_interval(size.astype(np.float64), None, resamples).record(),
        "unsure": share(size != 1),
    }


def operating_section(
    positive: BoolArray,
    score: FloatArray,
    threshold: float,
    resamples: Resamples,
) -> ThresholdMeasures:
    """Return the performance of a threshold on the evaluated split.

    Parameters
    ----------
    positive, score
        bool (n,), whether an image has the label, and float64 (n,), the label's probability; predicted positive if the
        score is at least the threshold.
    resamples
        Result of `intervals.resample_groups`.

    Returns
    -------
    `threshold`; `sensitivity`, `specificity`, `precision` and `negative_predictive_value` as `{value, low, high}`.
    """
    called = score >= threshold

    def share(part: BoolArray, whole: BoolArray) -> Estimate:
        return share_interval(part, whole, resamples).record()

    return {
        "threshold": threshold,
        "sensitivity": share(positive & called, positive),
        "specificity": share(~positive & ~called, ~positive),
        "precision": share(positive & called, called),
        "negative_predictive_value": share(~positive & ~called, ~called),
    }
