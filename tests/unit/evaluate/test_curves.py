"""Points of the curves and bins of the reliability plot."""

import numpy as np
import pytest

from wsi_attn.evaluate.curves import POINTS, curves, reliability
from wsi_attn.evaluate.metrics import expected_calibration_error


def two_columns(scores):
    scores = np.asarray(scores, float)
    return np.stack([1 - scores, scores], axis=1)


def test_points_worked_out_by_hand():
    found = curves(np.array([1, 0, 1, 0]), two_columns([0.9, 0.8, 0.6, 0.1]), ["no", "yes"])
    assert set(zip(found["roc"]["yes"]["x"], found["roc"]["yes"]["y"], strict=True)) >= {(0, 0), (0, 0.5), (1, 1)}
    points = list(zip(found["precision_recall"]["no"]["x"], found["precision_recall"]["no"]["y"], strict=True))
    assert points == [(0, 1), (0.5, 1), (0.5, 0.5), (1, 0.666667), (1, 0.5)]
    assert found["risk_coverage"]["x"] == [0.25, 0.5, 0.75, 1.0]
    assert found["risk_coverage"]["y"] == pytest.approx([0, 0, 1 / 3, 1 / 4], abs=1e-6)


def test_curves_stay_small_and_keep_their_ends():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 5000), generator.random(5000)
    found = curves(labels, two_columns(scores), ["no", "yes"])
    for curve in (found["roc"]["yes"], found["precision_recall"]["no"], found["risk_coverage"]):
        assert len(curve["x"]) == len(curve["y"]) <= POINTS
    assert (found["roc"]["yes"]["x"][0], found["roc"]["yes"]["y"][-1]) == (0, 1)


def test_a_class_alone_has_no_curve():
    found = curves(np.array([0, 0]), two_columns([0.4, 0.6]), ["no", "yes"])
    assert found["roc"] == {}
    assert found["precision_recall"] == {}


def test_the_bins_add_up_to_the_calibration_error():
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(3), 400)
    labels = generator.integers(0, 3, 400)
    bins = reliability(labels, probabilities)
    assert sum(row["n"] for row in bins) == 400
    gap = sum(row["n"] / 400 * abs(row["accuracy"] - row["confidence"]) for row in bins)
    called = probabilities.argmax(axis=1) == labels
    assert gap == pytest.approx(expected_calibration_error(called, probabilities.max(axis=1)), abs=1e-5)
    assert all(row["low"] < row["confidence"] <= row["high"] for row in bins)
