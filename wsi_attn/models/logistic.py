"""Multinomial logistic regression on features, its strength chosen by grouped cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Inverse strengths of the penalty that are tried, on standardised features."""

DEFAULT_C = 1e-3
"""Where there are too few patients to try."""

FOLDS = 5
ITERATIONS = 2000
LEAST_SHARE = 1e-6
"""Probability that the score gives at least, so that one case does not decide."""


@dataclass(frozen=True)
class LinearSolution:
    """Logits `weight @ z + bias`: float32 (C, D) and (C,); `warning` is a sentence, or None."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    warning: str | None = None


def fit_logistic(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    weights: NDArray[np.float32],
    seed: int,
) -> LinearSolution:
    """Fit the regression; the standardisation of the features is part of the result.

    Parameters
    ----------
    features
        float32 (n, D).
    labels
        int64 (n,), 0 to C - 1, each at least once.
    groups
        Of each image; a fold splits none.
    weights
        float32 (n,), weight of each image.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    machine = make_pipeline(StandardScaler(), LogisticRegression(C=DEFAULT_C, max_iter=ITERATIONS))
    given = {"logisticregression__sample_weight": weights}
    patients = np.array(groups)
    folds = min(FOLDS, *(len(np.unique(patients[labels == c])) for c in np.unique(labels)))
    warning = None
    if folds < 2:
        warning = (
            "a label has images of one patient only, so that C of the logistic regression cannot be cross-validated "
            f"and is {DEFAULT_C:g}; add patients with that label"
        )
        best = machine.fit(features, labels, **given)
    else:
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        search = GridSearchCV(machine, {"logisticregression__C": C_GRID}, scoring=_log_likelihood, cv=splits)
        best = search.fit(features, labels, groups=patients, **given).best_estimator_
    scaler, regression = best[0], best[1]
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # two labels: the logit of the second
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return LinearSolution(weight.astype(np.float32), bias.astype(np.float32), warning)


def _log_likelihood(machine: Any, features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean log probability of the labels; one that a fold has not trained on has `LEAST_SHARE`."""
    probabilities = machine.predict_proba(features)
    place = {int(label): column for column, label in enumerate(machine.classes_)}
    own = [probabilities[row, place[label]] if label in place else 0.0 for row, label in enumerate(labels.tolist())]
    return float(np.log(np.maximum(own, LEAST_SHARE)).mean())
