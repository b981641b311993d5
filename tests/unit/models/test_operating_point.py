"""Thresholds chosen by sensitivity, and what they cost."""

import numpy as np
import pytest

from wsi_attn.errors import UsageError
from wsi_attn.evaluate.intervals import resample_groups
from wsi_attn.evaluate.sections import OperatingPoint, operating_section
from wsi_attn.models.operating_point import sensitivity_thresholds, threshold_for

LABELS = ["benign", "malignant"]


def two_columns(scores):
    scores = np.asarray(scores, float)
    return np.stack([1 - scores, scores], axis=1)


def test_the_threshold_is_the_highest_that_finds_enough():
    scores = np.array([0.9, 0.8, 0.6, 0.3, 0.5, 0.2])
    points = sensitivity_thresholds(np.array([1, 1, 1, 1, 0, 0]), two_columns(scores))
    for wanted, threshold in [(0.25, 0.9), (0.26, 0.8), (0.5, 0.8), (0.75, 0.6), (0.751, 0.3), (1, 0.3)]:
        assert threshold_for(points, LABELS, "malignant", wanted) == threshold


def test_every_sensitivity_is_reached_on_the_validation_part():
    generator = np.random.default_rng(0)
    labels, scores = np.arange(331) % 2, generator.random(331).round(2)  # with ties
    points = sensitivity_thresholds(labels, two_columns(scores))
    for percent in range(1, 101):
        threshold = threshold_for(points, LABELS, "malignant", percent / 100)
        assert (scores[labels == 1] >= threshold).mean() >= percent / 100
        higher = scores[labels == 1][scores[labels == 1] > threshold]
        assert higher.size == 0 or (scores[labels == 1] >= higher.min()).mean() < percent / 100


def test_a_label_without_images_has_none():
    points = sensitivity_thresholds(np.zeros(4, int), two_columns([0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(UsageError, match="no operating points for 'malignant'"):
        threshold_for(points, LABELS, "malignant", 0.9)
    with pytest.raises(UsageError, match="no operating points for 'benign'"):
        threshold_for([], LABELS, "benign", 0.9)


def test_names_and_shares_are_checked():
    points = sensitivity_thresholds(np.array([0, 1]), two_columns([0.1, 0.9]))
    with pytest.raises(UsageError, match="not a label of the model; its labels are benign, malignant"):
        threshold_for(points, LABELS, "bad", 0.9)
    for share in (0, -1, 1.01):
        with pytest.raises(UsageError, match="--sensitivity"):
            threshold_for(points, LABELS, "benign", share)


def test_what_a_threshold_costs():
    positive = np.array([True, True, True, False, False, False, False, False])
    score = np.array([0.9, 0.6, 0.3, 0.6, 0.4, 0.2, 0.2, 0.1])
    point = OperatingPoint("malignant", 0.6, 0.6)
    found = operating_section(positive, score, point, resample_groups(list("abcdefgh"), 0), "9 images")
    assert (found["positive"], found["wanted_sensitivity"], found["chosen_on"]) == ("malignant", 0.6, "9 images")
    assert found["threshold"] == 0.6
    assert found["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert found["specificity"]["value"] == pytest.approx(4 / 5)
    assert found["precision"]["value"] == pytest.approx(2 / 3)
    assert found["negative_predictive_value"]["value"] == pytest.approx(4 / 5)
    assert found["sensitivity"]["low"] < 2 / 3 < found["sensitivity"]["high"]


def test_what_was_never_called_has_no_precision():
    point = OperatingPoint("malignant", 0.6, 0.9)
    found = operating_section(
        np.array([True, False]), np.array([0.1, 0.2]), point, resample_groups(["a", "b"], 0), "9 images"
    )
    assert found["precision"] == {"value": None, "low": None, "high": None}
