"""The report of an evaluation, and that of predicted labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_attn import provenance
from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.curves import curves, reliability
from wsi_attn.evaluate.intervals import (
    FEW_GROUPS,
    LEVEL,
    RESAMPLES,
    Interval,
    Resamples,
    percentile_interval,
    resample_groups,
    share_interval,
)
from wsi_attn.evaluate.metrics import OVERALL, PER_CLASS, classification_scores
from wsi_attn.evaluate.resampled import resampled_scores
from wsi_attn.json_types import JsonObject
from wsi_attn.models.probabilities import FloatArray, checked

METHOD = f"percentile bootstrap over groups; shares over fewer than {FEW_GROUPS} groups: Clopper-Pearson"


@dataclass(frozen=True)
class Origin:
    """What a report is about: split of the manifest, seed of the resampling, command line, name and hash of the
    model.
    """

    split: str
    seed: int
    command: str
    model: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """The result of an evaluation, for any task.

    Attributes
    ----------
    n, groups
        Number of images, and of patients.
    labels
        Names of the classes.
    metrics
        Overall metrics with their intervals.
    sections
        Everything else as JSON values, by name, in the order of the file.
    counted
        What the support of a class counts.
    """

    n: int
    groups: int
    labels: tuple[str, ...]
    origin: Origin
    metrics: Mapping[str, Interval]
    sections: Mapping[str, object]
    counted: str = "images"

    def record(self) -> Mapping[str, object]:
        """Return the report as JSON values; undefined values are null, never NaN."""
        return {
            "n": self.n,
            "split": self.origin.split,
            "groups": self.groups,
            "labels": list(self.labels),
            "seed": self.origin.seed,
            "command": self.origin.command,
            "model": dict(self.origin.model),
            **{name: interval.record() for name, interval in self.metrics.items()},
            **self.sections,
        }

    def with_sections(self, **sections: object) -> Report:
        """Return the report with more sections at the end, or other ones of the same name."""
        return replace(self, sections={**self.sections, **sections})


def resampling_section(intervals: Mapping[str, Interval] | None = None) -> JsonObject:
    """Return how intervals were computed, and by metric how many resamples of the given ones had no defined value."""
    section: JsonObject = {"method": METHOD, "level": LEVEL, "resamples": RESAMPLES}
    if intervals is not None:
        section["skipped"] = {key: interval.skipped for key, interval in intervals.items()}
    return section


def evaluate_predictions(
    labels: ArrayLike, probabilities: ArrayLike, names: Sequence[str], groups: Sequence[str], origin: Origin
) -> Report:
    """Compute all metrics of predicted labels, with intervals and provenance.

    Parameters
    ----------
    labels, probabilities, names
        int64 (n,), float (n, C) and C class names; see `classification_scores`.
    groups
        n patient names; the intervals resample patients, not slides.

    Returns
    -------
    A report with the metrics `OVERALL` and the sections `per_class` by name, each with `support` and the metrics of
    `PER_CLASS` as `{value, low, high}`; `confusion_matrix`, true classes in rows, predicted in columns; `reliability`
    and `curves`, see `evaluate.curves`; `intervals`, how they were computed and how many resamples each metric
    skipped; `software`.

    Raises
    ------
    PredictionError : arrays of different lengths; see `probabilities.checked`.
    """
    y, p = checked(labels, probabilities, names)
    if len(groups) != y.size:
        raise PredictionError(
            f"Cannot evaluate: {len(groups)} groups for {y.size} slides; one group per slide is needed"
        )
    scores = classification_scores(y, p, names)
    resamples = resample_groups(groups, origin.seed)
    overall, by_class = resampled_scores(y, p, resamples.weights)
    intervals = {key: percentile_interval(scores.overall[key], overall[key], resamples.groups) for key in OVERALL}
    called = p.argmax(axis=1)
    intervals["accuracy"] = share_interval(called == y, np.full(y.size, True), resamples)
    support = scores.confusion_matrix.sum(axis=1).tolist()
    per_class = {
        name: {
            "support": support[c],
            **_class_records(scores.per_class[name], by_class[c], y == c, called == c, resamples),
        }
        for c, name in enumerate(names)
    }
    return Report(
        int(y.size),
        resamples.groups,
        tuple(names),
        origin,
        intervals,
        {
            "per_class": per_class,
            "confusion_matrix": scores.confusion_matrix.tolist(),
            "reliability": reliability(y, p),
            "curves": curves(y, p, names),
            "intervals": resampling_section(intervals),
            "software": provenance.software(),
        },
    )


def _class_records(
    values: Mapping[str, float],
    resampled: Mapping[str, FloatArray],
    positive: NDArray[np.bool_],
    called: NDArray[np.bool_],
    resamples: Resamples,
) -> dict[str, dict[str, float | None]]:
    found = {key: percentile_interval(values[key], resampled[key], resamples.groups) for key in PER_CLASS}
    if positive.any():
        found["recall"] = share_interval(called, positive, resamples)
        found["precision"] = share_interval(positive, called, resamples) if called.any() else found["precision"]
    return {key: interval.record() for key, interval in found.items()}
