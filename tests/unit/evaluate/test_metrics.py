"""Closed forms and conventions of the classification metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.metrics import (
    ECE_BINS,
    brier_score,
    classification_scores,
    confidence_bin,
    expected_calibration_error,
)

NAMES = ["a", "b", "c"]


def one_hot(labels, n_classes=3):
    return np.eye(n_classes)[labels]


def test_a_perfect_answer_scores_one_and_errs_by_zero():
    labels = np.array([0, 1, 2, 0, 1, 2])
    scores = classification_scores(labels, one_hot(labels), NAMES)
    assert scores.overall == {
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "macro_f1": 1.0,
        "auroc": 1.0,
        "auprc": 1.0,
        "ece": 0.0,
        "brier": 0.0,
    }
    np.testing.assert_array_equal(scores.confusion_matrix, 2 * np.eye(3))


def test_values_worked_out_by_hand():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    scores = classification_scores(labels, probabilities, ["no", "yes"])
    assert scores.overall["accuracy"] == pytest.approx(3 / 4)
    assert scores.overall["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores.overall["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores.overall["auroc"] == pytest.approx(2 / 3)
    assert scores.per_class["yes"]["precision"] == pytest.approx(1 / 2)
    assert scores.per_class["yes"]["auprc"] == pytest.approx(1 / 2)
    assert scores.overall["brier"] == pytest.approx(2 * (0.01 + 0.04 + 0.49 + 0.16) / 4)
    assert scores.confusion_matrix.tolist() == [[2, 1], [0, 1]]


def test_macro_averages_leave_out_a_class_that_the_labels_lack():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]])
    scores = classification_scores(labels, probabilities, NAMES)
    assert scores.overall["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert all(np.isnan(value) for value in scores.per_class["c"].values())
    assert not any(np.isnan(value) for value in scores.overall.values())


def test_labels_of_one_class_leave_ranking_undefined():
    scores = classification_scores(np.array([1, 1]), one_hot([1, 0]), NAMES)
    assert np.isnan(scores.overall["auroc"])
    assert np.isnan(scores.overall["auprc"])
    assert scores.overall["balanced_accuracy"] == pytest.approx(0.5)


def test_a_class_that_is_never_called_has_precision_zero():
    scores = classification_scores(np.array([0, 1]), one_hot([0, 0]), NAMES)
    assert scores.per_class["b"]["precision"] == 0
    assert scores.per_class["b"]["f1"] == 0


def test_calibration_error_of_one_bin_is_the_gap():
    correct = np.array([True, True, True, False])
    assert expected_calibration_error(correct, np.full(4, 0.9)) == pytest.approx(0.9 - 0.75)


def test_calibration_errors_of_different_bins_do_not_cancel():
    correct = np.array([True, True, False, False])
    confidence = np.array([0.6, 0.6, 0.4, 0.4])
    assert expected_calibration_error(correct, confidence) == pytest.approx(0.4)


def test_bins_are_open_below_and_closed_above():
    edges = np.arange(1, ECE_BINS + 1) / ECE_BINS
    np.testing.assert_array_equal(confidence_bin(np.nextafter(edges, 0)), np.arange(ECE_BINS))
    assert confidence_bin(np.array([0.0, 1.0])).tolist() == [0, ECE_BINS - 1]


@settings(deadline=None)
@given(st.integers(2, 8))
def test_brier_of_the_uniform_answer(n_classes):
    labels = np.arange(n_classes)
    uniform = np.full((n_classes, n_classes), 1 / n_classes)
    assert brier_score(labels, uniform) == pytest.approx(1 - 1 / n_classes)


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([], np.zeros((0, 3)), "at least one"),
        ([0], np.zeros((2, 3)), "shape"),
        ([3], [[1, 0, 0]], "from 0 to 2"),
        ([0.0], [[1, 0, 0]], "integers"),
        ([0, 0], [[1, 0, 0], [0.5, 0, 0]], "row 1"),
        ([0], [[np.nan, 0, 0]], "row 0"),
        ([0], [[1.5, -0.5, 0]], "row 0"),
    ],
)
def test_input_that_makes_no_sense_is_refused(labels, probabilities, words):
    with pytest.raises(PredictionError, match=words):
        classification_scores(labels, probabilities, NAMES)
