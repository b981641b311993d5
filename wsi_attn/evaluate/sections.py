"""Report sections on calibration, prediction sets and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_attn.evaluate.calibration import calibration_section
from wsi_attn.evaluate.conformal import conformal_section, mean_thresholds
from wsi_attn.evaluate.intervals import group_weights
from wsi_attn.evaluate.metrics import FloatArray, IntArray
from wsi_attn.evaluate.operating_point import operating_section, threshold_for

SETS = "A set holds every label with a probability of at least 1 - threshold."
NO_GUARANTEE = "The threshold is the mean of the folds': it carries no guarantee, only the measured coverage counts."


@dataclass(frozen=True)
class OperatingPoint:
    """A target sensitivity for one label, and the probability threshold of the label."""

    positive: str
    sensitivity: float
    threshold: float


def choose_operating_point(
    calibrations: Sequence[Mapping[str, Any]], labels: Sequence[str], positive: str, sensitivity: float
) -> OperatingPoint:
    """Return the operating point of a checkpoint, or the mean threshold of several; errors as in `threshold_for`."""
    found = [
        threshold_for(calibration.get("operating_points", ()), labels, positive, sensitivity)
        for calibration in calibrations
    ]
    return OperatingPoint(positive, sensitivity, float(np.mean(found)))


def calibration_sections(
    labels: IntArray,
    before: FloatArray,
    after: FloatArray,
    names: Sequence[str],
    groups: Sequence[str],
    seed: int,
    calibrations: Sequence[Mapping[str, Any]],
    operating_point: OperatingPoint | None = None,
) -> dict[str, Any]:
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
    if not all(calibrations):
        return {}
    weights, n_groups = group_weights(groups, seed), len(set(groups))
    images = [int(calibration["validation_images"]) for calibration in calibrations]
    said = f"{' + '.join(map(str, images))} validation images"
    folds = len(calibrations) > 1
    temperatures = [float(calibration["temperature"]) for calibration in calibrations]
    sections: dict[str, Any] = {
        "calibration": {
            "temperature": temperatures if folds else temperatures[0],
            "validation_images": images if folds else images[0],
            "note": _temperature_note(calibrations, said),
            **calibration_section(labels, before, after, weights, n_groups),
        }
    }
    thresholds = mean_thresholds([calibration["conformal"] for calibration in calibrations])
    sections["conformal"] = {
        "note": f"From {said}. {SETS}{' ' + NO_GUARANTEE if folds else ''}",
        **conformal_section(labels, after, thresholds, weights, n_groups),
    }
    if operating_point is not None:
        c = list(names).index(operating_point.positive)
        sections["operating_point"] = {
            "positive": operating_point.positive,
            "wanted_sensitivity": operating_point.sensitivity,
            "chosen_on": said,
            **operating_section(labels == c, after[:, c], operating_point.threshold, weights, n_groups),
        }
    return sections


def _temperature_note(calibrations: Sequence[Mapping[str, Any]], said: str) -> str:
    kept = sum(not calibration["temperature_fitted"] for calibration in calibrations)
    if not kept:
        return f"Fitted on {said}."
    return (
        f"Kept at 1 for {kept} of {len(calibrations)} models: too few validation images, or all of them called right."
    )
