"""The JSON report of `wsi-attn evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from wsi_attn import provenance
from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.curves import curves, reliability
from wsi_attn.evaluate.intervals import LEVEL, RESAMPLES, Interval, group_weights, percentile_interval
from wsi_attn.evaluate.metrics import OVERALL, PER_CLASS, classification_scores
from wsi_attn.evaluate.resampled import resampled_scores
from wsi_attn.models.probabilities import checked


def evaluate_predictions(
    labels: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str],
    groups: Sequence[str],
    split: str,
    seed: int,
    command: str,
    model: Mapping[str, str],
) -> dict[str, Any]:
    """Compute all metrics of a split, with intervals and provenance.

    Parameters
    ----------
    labels, probabilities, names
        int64 (n,), float (n, C) and C class names; see `classification_scores`.
    groups
        n patient names; the intervals resample patients, not slides.
    split, seed, command, model
        Split of the manifest, seed of the resampling, command line, and record of the model.

    Returns
    -------
    A JSON object: `n`, `split`, `groups` (how many), `labels`, `seed`, `command`, `model`, `software`; each metric
    of `OVERALL` as `{value, low, high}`; `per_class` by name, each with `support` and the metrics of `PER_CLASS` in
    the same form; `confusion_matrix`, true classes in rows, predicted in columns; `reliability` and `curves`, see
    `evaluate.curves`; `intervals`, how they were computed and how many resamples each metric skipped. Undefined
    values are null, never NaN.

    Raises
    ------
    PredictionError : arrays of different lengths; see `metrics.checked`.
    """
    y, p = checked(labels, probabilities, names)
    if len(groups) != y.size:
        raise PredictionError(
            f"Cannot evaluate: {len(groups)} groups for {y.size} slides; one group per slide is needed"
        )
    scores = classification_scores(y, p, names)
    overall, by_class = resampled_scores(y, p, group_weights(groups, seed))
    n_groups = len(set(groups))
    intervals = {key: percentile_interval(scores.overall[key], overall[key], n_groups) for key in OVERALL}
    support = scores.confusion_matrix.sum(axis=1).tolist()
    per_class = {
        name: {"support": support[c], **_records(scores.per_class[name], by_class[c], n_groups)}
        for c, name in enumerate(names)
    }
    return {
        "n": int(y.size),
        "split": split,
        "groups": n_groups,
        "labels": list(names),
        "seed": seed,
        "command": command,
        "model": dict(model),
        **{key: interval.record() for key, interval in intervals.items()},
        "per_class": per_class,
        "confusion_matrix": scores.confusion_matrix.tolist(),
        "reliability": reliability(y, p),
        "curves": curves(y, p, names),
        "intervals": _method(intervals),
        "software": provenance.software(),
    }


def _records(values: Mapping[str, float], resampled: Mapping[str, Any], n_groups: int) -> dict[str, Any]:
    return {key: percentile_interval(values[key], resampled[key], n_groups).record() for key in PER_CLASS}


def _method(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {
        "method": "percentile bootstrap over groups",
        "level": LEVEL,
        "resamples": RESAMPLES,
        "skipped": {key: interval.skipped for key, interval in intervals.items()},
    }
