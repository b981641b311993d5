"""Known temperatures, and the calibration that a checkpoint stores from its validation set."""

import json
from dataclasses import asdict

import msgspec
import numpy as np
import pytest

from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.metrics import brier_score, expected_calibration_error
from wsi_attn.models.calibration import (
    BOUNDS,
    FEWEST_IMAGES,
    Calibration,
    calibrated,
    fit_calibration,
    fit_temperature,
    log_losses,
    refined,
    with_temperature,
)
from wsi_attn.models.spec import ModelSpec, read_spec


def drawn(n, temperature, seed=0, classes=3):
    """Labels drawn from true probabilities, and answers with logits that are `temperature` times too large."""
    generator = np.random.default_rng(seed)
    true = generator.dirichlet(np.ones(classes), n)
    labels = (true.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    return labels, with_temperature(true, 1 / temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_a_miscalibrated_network_is_found(temperature):
    labels, probabilities = drawn(20_000, temperature)
    assert fit_temperature(labels, probabilities) == pytest.approx(temperature, rel=0.05)


def test_two_classes_have_a_closed_form():
    # All say 0.9, and 3 of 4 are right: the logit log 9 has to become log 3, so that T = log 9 / log 3 = 2.
    probabilities = np.tile([0.9, 0.1], (40, 1))
    labels = np.array([0, 0, 0, 1] * 10)
    assert fit_temperature(labels, probabilities) == pytest.approx(2)
    np.testing.assert_allclose(with_temperature(probabilities, 2)[0], [0.75, 0.25])


def test_calibration_lowers_every_error():
    labels, sure = drawn(4000, 4.0)
    found = fit_calibration(labels, sure)
    after = calibrated(sure, found)
    assert found.nll.after < found.nll.before
    assert found.nll.after == pytest.approx(log_losses(labels, after).mean())
    assert brier_score(labels, after) < brier_score(labels, sure)
    errors = [expected_calibration_error(p.argmax(axis=1) == labels, p.max(axis=1)) for p in (sure, after)]
    assert errors[1] < 0.03 < errors[0]
    np.testing.assert_array_equal(after.argmax(axis=1), sure.argmax(axis=1))


def test_no_temperature_is_the_least_likely_one_nearby():
    labels, probabilities = drawn(300, 2.0, seed=3)
    best = fit_temperature(labels, probabilities)
    least = log_losses(labels, with_temperature(probabilities, best)).mean()
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert log_losses(labels, with_temperature(probabilities, best * factor)).mean() > least


def test_what_cannot_be_fitted_stays_at_one_and_says_so():
    labels, probabilities = drawn(FEWEST_IMAGES - 1, 2.0)
    few = fit_calibration(labels, probabilities)
    assert (few.temperature, few.temperature_fitted) == (1.0, False)
    right = fit_calibration(np.arange(30) % 3, np.eye(3)[np.arange(30) % 3] * 0.4 + 0.2)
    assert (right.temperature, right.temperature_fitted) == (1.0, False)
    assert calibrated(probabilities, few) is probabilities
    assert calibrated(probabilities, Calibration()) is probabilities


def test_worse_than_guessing_ends_at_the_bound():
    labels = np.zeros(20, int)
    assert fit_temperature(labels, np.tile([0.1, 0.9], (20, 1))) == pytest.approx(BOUNDS[1])


def test_certainty_of_one_is_no_infinity():
    probabilities = np.eye(3)[np.arange(30) % 3]
    labels = np.arange(30) % 3
    labels[0] = 2
    found = fit_calibration(labels, probabilities)
    assert np.isfinite(calibrated(probabilities, found)).all()
    json.dumps(asdict(found), allow_nan=False)


def test_the_object_says_what_is_missing():
    labels, probabilities = drawn(12, 1.0)
    labels[labels == 2] = 1
    found = fit_calibration(labels, probabilities)
    assert found.validation_images == 12
    assert found.conformal["0.95"] is None
    assert found.conformal["0.9"] is not None
    assert found.operating_points[2] is None
    assert msgspec.convert(json.loads(json.dumps(asdict(found), allow_nan=False)), Calibration) == found


def test_specifications_of_any_age_are_read():
    labels, probabilities = drawn(12, 1.0)
    spec = ModelSpec(("a", "b", "c"), 0.5, "H&E", "otsu", calibration=fit_calibration(labels, probabilities))
    assert read_spec(json.loads(json.dumps(spec.record()))) == spec
    old = {"labels": ["a", "b"], "mpp": None, "stain": "any", "tissue": "none"}
    assert read_spec(old) == read_spec(old | {"appearance": {}, "calibration": {}})
    assert not read_spec(old).calibration.fitted
    with pytest.raises(msgspec.ValidationError, match="temperature"):
        read_spec(old | {"calibration": {"temperature": "warm"}})


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(PredictionError, match="images by classes"):
        fit_calibration([0, 1], [0.5, 0.5])
    with pytest.raises(PredictionError, match="sum to 1"):
        fit_calibration([0, 1], [[3.0, 1.0], [0.0, 1.0]])


def test_confidence_does_not_change_the_refined_loss() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(40, 3))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    losses = []
    for scale in (0.5, 4.0):
        shares = with_temperature(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1 / scale)
        losses.append(log_losses(labels, refined(labels, shares)).mean())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    few = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert refined(np.array([0, 1]), few) is few
    many = np.tile(few, (6, 1))
    assert log_losses(np.tile([0, 1], 6), refined(np.tile([0, 1], 6), many)).max() < 1e-6
