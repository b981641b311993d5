"""Terms of uncertainty and their bounds; risk over coverage against a definition in loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_attn.evaluate.intervals import resample_groups
from wsi_attn.evaluate.uncertainty import entropy, entropy_terms, risk_curve, uncertainty_section


@settings(max_examples=50)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-300, 300)))
def test_bounds_hold_for_any_passes(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found = entropy_terms(shares / shares.sum(axis=1, keepdims=True))
    assert 0 <= found["mutual_information"] <= found["predictive_entropy"] <= np.log(logits.shape[1]) + 1e-12
    assert 0 <= found["expected_entropy"] <= found["predictive_entropy"]


def test_entropy_of_what_is_known():
    assert entropy(np.full(4, 0.25)) == pytest.approx(np.log(4))
    assert entropy(np.eye(3)[1]) == 0
    alike = entropy_terms(np.tile([0.2, 0.8], (5, 1)))
    assert alike["mutual_information"] == pytest.approx(0, abs=1e-12)
    against = entropy_terms(np.array([[1.0, 0.0], [0.0, 1.0]]))  # sure each time, and never agreed
    assert against["mutual_information"] == pytest.approx(np.log(2))
    assert against["expected_entropy"] == 0


def test_risk_by_hand():
    uncertainty, wrong = np.array([0.3, 0.1, 0.4, 0.2]), np.array([True, False, True, False])
    np.testing.assert_allclose(risk_curve(uncertainty, wrong), [0, 0, 1 / 3, 1 / 2])
    twice = risk_curve(uncertainty, wrong, np.array([2.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(twice, [0, 1 / 2, 2 / 3, 3 / 4])


def test_equal_uncertainties_are_the_mean_of_all_orders():
    uncertainty, wrong = np.array([0.1, 0.5, 0.5, 0.5]), np.array([False, True, False, True])
    curves = []
    for order in itertools.permutations([1, 2, 3]):
        sorted_wrong = wrong[[0, *order]]
        curves.append(sorted_wrong.cumsum() / np.arange(1, 5))
    np.testing.assert_allclose(risk_curve(uncertainty, wrong), np.mean(curves, axis=0))


def section(terms, wrong, passes=0):
    groups = [str(index // 2) for index in range(len(wrong))]
    return uncertainty_section(terms, next(iter(terms)), wrong, resample_groups(groups, 0, 200), passes)


def test_a_perfect_order_is_the_optimal_one_and_referring_empties_the_errors():
    wrong = np.arange(40) >= 32  # a fifth, and they are the least sure
    found = section({"entropy": np.linspace(0, 0.6, 40)}, wrong)
    assert found["terms"]["entropy"]["aurc"] == found["aurc_optimal"]
    expected = np.mean([max(0, k - 32) / k for k in range(1, 41)])
    assert found["aurc_optimal"]["value"] == pytest.approx(expected)
    errors = {share: row["error"]["value"] for share, row in found["referral"].items()}
    assert errors == {"0": 0.2, "0.1": pytest.approx(4 / 36), "0.2": 0, "0.3": 0}
    assert found["referral"]["0.3"]["answered"] == 28
    term = found["terms"]["entropy"]
    assert term["wrong"]["value"] > term["right"]["value"]
    assert term["aurc"]["low"] <= term["aurc"]["value"] <= term["aurc"]["high"]


def test_a_random_order_costs_the_error_rate():
    wrong = np.arange(30) % 3 == 0
    found = section({"predictive_entropy": np.ones(30), "margin": np.linspace(0, 1, 30)}, wrong, passes=9)
    assert (found["by"], found["passes"]) == ("predictive_entropy", 9)
    assert found["terms"]["predictive_entropy"]["aurc"]["value"] == pytest.approx(1 / 3)
    assert found["aurc_optimal"]["value"] < 1 / 3
    assert found["risk_coverage"]["x"][-1] == 1


def test_no_error_leaves_what_is_wrong_undefined():
    found = section({"entropy": np.linspace(0, 1, 10)}, np.zeros(10, bool))
    assert found["terms"]["entropy"]["wrong"]["value"] is None
    assert found["terms"]["entropy"]["aurc"]["value"] == 0
