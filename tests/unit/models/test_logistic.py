"""The regression of the probe, against scikit-learn's own probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsi_attn.models import logistic
from wsi_attn.models.logistic import fit_logistic


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_layer_has_the_probabilities_of_the_pipeline(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "C_GRID", (0.01,))
    generator = np.random.default_rng(0)
    labels = np.arange(60) % classes
    features = (generator.normal(3, 2, (60, 5)) + labels[:, None]).astype(np.float32)
    weights = generator.uniform(0.5, 2, 60).astype(np.float32)
    solved = fit_logistic(features, labels, [str(index // 2) for index in range(60)], weights, 0)
    logits = features @ solved.weight.T + solved.bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    wanted.fit(features, labels, logisticregression__sample_weight=weights)
    np.testing.assert_allclose(shares, wanted.predict_proba(features), atol=1e-5)
    assert solved.warning is None


def test_noise_is_penalised_and_signal_is_not() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 2
    groups = [str(index // 4) for index in range(80)]
    noise = generator.normal(0, 1, (80, 30)).astype(np.float32)
    signal = (noise + 2 * labels[:, None]).astype(np.float32)
    blank, told = (fit_logistic(each, labels, groups, np.ones(80, np.float32), 0) for each in (noise, signal))
    assert np.abs(blank.weight).sum() < 0.1 * np.abs(told.weight).sum()


def test_a_label_of_one_patient_is_said() -> None:
    features = np.random.default_rng(0).normal(0, 1, (6, 3)).astype(np.float32)
    solved = fit_logistic(features, np.array([0, 0, 0, 1, 1, 1]), list("abcddd"), np.ones(6, np.float32), 0)
    assert solved.warning is not None
    assert "one patient only" in solved.warning
    assert solved.weight.shape == (2, 3)
