"""The bootstrap: equal to scikit-learn on every resample, whole patients, the same answer for the same seed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.evaluate import resampled
from wsi_attn.evaluate.intervals import (
    clopper_pearson,
    percentile_interval,
    ratio_interval,
    resample_groups,
    share_interval,
)
from wsi_attn.evaluate.metrics import OVERALL, PER_CLASS, classification_scores
from wsi_attn.evaluate.resampled import resampled_scores


def cohort(seed, n, n_classes, decimals=None):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, n_classes, n)
    logits = generator.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if decimals is not None:  # ties between scores, and between classes
        probabilities = np.round(probabilities, decimals) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 4), st.sampled_from([None, 1]))
def test_weights_equal_scikit_learn_on_repeated_slides(seed, n, n_classes, decimals):
    labels, probabilities = cohort(seed, n, n_classes, decimals)
    counts = np.random.default_rng(seed).integers(0, 4, n)
    counts[0] += 1
    names = [str(c) for c in range(n_classes)]
    slow = classification_scores(np.repeat(labels, counts), np.repeat(probabilities, counts, axis=0), names)
    overall, per_class = resampled_scores(labels, probabilities, counts[None].astype(float))
    for c, name in enumerate(names):
        for key in PER_CLASS:
            np.testing.assert_allclose(per_class[c][key][0], slow.per_class[name][key], atol=1e-12)
    same_classes = set(np.repeat(labels, counts).tolist()) == set(labels.tolist())
    for key in OVERALL if same_classes else ("accuracy", "ece", "brier"):
        np.testing.assert_allclose(overall[key][0], slow.overall[key], atol=1e-12)


def test_a_resample_without_one_of_the_classes_has_no_macro_average():
    labels, probabilities = np.array([0, 1, 2]), np.eye(3)
    overall, per_class = resampled_scores(labels, probabilities, np.array([[1.0, 2.0, 0.0]]))
    assert np.isnan(overall["balanced_accuracy"][0])
    assert overall["accuracy"][0] == 1
    assert per_class[0]["recall"][0] == 1


def test_blocks_change_nothing(monkeypatch):
    labels, probabilities = cohort(1, 40, 3)
    weights = resample_groups([str(i) for i in range(40)], 0, 50).weights
    whole, _ = resampled_scores(labels, probabilities, weights)
    monkeypatch.setattr(resampled, "BLOCK_ELEMENTS", 40 * 7)
    parts, _ = resampled_scores(labels, probabilities, weights)
    for key in OVERALL:
        np.testing.assert_allclose(whole[key], parts[key], rtol=1e-12)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.integers(0, 1000))
def test_a_group_is_never_split_and_as_many_are_drawn_as_there_are(groups, seed):
    weights = resample_groups(groups, seed, 20).weights
    for name in set(groups):
        own = weights[:, [group == name for group in groups]]
        assert (own == own[:, :1]).all()
    first = [groups.index(name) for name in sorted(set(groups))]
    assert (weights[:, first].sum(axis=1) == len(first)).all()


def test_the_seed_decides():
    groups = list("aabbccdd")
    np.testing.assert_array_equal(resample_groups(groups, 3).weights, resample_groups(groups, 3).weights)
    assert (resample_groups(groups, 3).weights != resample_groups(groups, 4).weights).any()


def test_the_interval_covers_the_value_and_narrows_with_more_patients():
    widths = []
    for n in (40, 640):
        labels, probabilities = cohort(2, n, 2)
        value = classification_scores(labels, probabilities, ["a", "b"]).overall["accuracy"]
        weights = resample_groups([str(i) for i in range(n)], 0).weights
        interval = percentile_interval(value, resampled_scores(labels, probabilities, weights)[0]["accuracy"], n)
        assert interval.low <= value <= interval.high
        # of a share, the bootstrap is the binomial: 1.96 standard errors on either side
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / n), rel=0.15)
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 3


def test_slides_of_one_patient_count_as_one():
    labels, probabilities = cohort(3, 30, 2)
    many = np.tile(labels, 10), np.tile(probabilities, (10, 1))
    patients = [str(i) for i in range(30)]
    once = resampled_scores(labels, probabilities, resample_groups(patients, 0).weights)[0]["accuracy"]
    tenfold = resampled_scores(*many, resample_groups(patients * 10, 0).weights)[0]["accuracy"]
    np.testing.assert_allclose(once, tenfold)


def test_undefined_resamples_are_skipped_and_counted():
    interval = percentile_interval(0.5, np.array([0.4, np.nan, 0.5, 0.6]), 4)
    assert interval.skipped == 1
    assert 0.4 <= interval.low < 0.5 < interval.high <= 0.6


@pytest.mark.parametrize(
    ("values", "n_groups"), [([0.5, np.nan, np.nan], 3), ([0.5, 0.5, 0.5], 1), ([0.2, 0.5, 0.8], 2)]
)
def test_no_interval_where_too_little_supports_one(values, n_groups):
    interval = percentile_interval(0.5, np.array(values), n_groups)
    assert interval.record() == {"value": 0.5, "low": None, "high": None}


def test_a_thousand_resamples_take_no_time():
    labels, probabilities = cohort(4, 500, 5)
    start = time.perf_counter()
    resampled_scores(labels, probabilities, resample_groups([str(i // 2) for i in range(500)], 0).weights)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (5, 10, 0.1871, 0.8129), (1, 20, 0.0013, 0.2487)],  # printed tables
)
def test_exact_intervals_are_those_of_tables(successes, trials, low, high):
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=1e-4)
    # The defining equations: at the upper limit, at most so many successes have a chance of 2.5 %.
    from scipy.stats import binomtest

    exact = binomtest(successes, trials).proportion_ci(method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((exact.low, exact.high))


def test_a_share_of_few_patients_is_exact_even_where_all_are_right():
    everyone = np.full(12, True)
    resamples = resample_groups([str(i) for i in range(12)], 0)
    assert share_interval(everyone, everyone, resamples).record() == pytest.approx(
        {"value": 1.0, "low": 0.025 ** (1 / 12), "high": 1.0}
    )
    assert share_interval(~everyone, everyone, resamples).high == pytest.approx(1 - 0.025 ** (1 / 12))
    assert share_interval(everyone, ~everyone, resamples).record() == {"value": None, "low": None, "high": None}


def test_slides_of_few_patients_do_not_narrow_an_exact_share():
    right = np.array([True, False, True, True])
    once = share_interval(right, np.full(4, True), resample_groups(list("abcd"), 0))
    tenfold = share_interval(np.tile(right, 10), np.full(40, True), resample_groups(list("abcd") * 10, 0))
    assert once.record() == pytest.approx(tenfold.record())
    assert (once.low, once.high) == pytest.approx(clopper_pearson(3, 4))


def test_shares_need_three_patients_and_many_are_resampled():
    two = share_interval(np.array([True, False]), np.full(2, True), resample_groups(["a", "b"], 0))
    assert two.record() == {"value": 0.5, "low": None, "high": None}
    right, resamples = np.arange(50) % 3 > 0, resample_groups([str(i) for i in range(50)], 0)
    everyone = np.full(50, True)
    assert share_interval(right, everyone, resamples) == ratio_interval(right.astype(float), None, resamples)
    assert share_interval(everyone, everyone, resamples).low < 1


@pytest.mark.slow
def test_intervals_of_shares_cover_as_often_as_they_say():
    """The bootstrap of 8 patients covers too rarely where most are right; the exact interval does not."""
    generator = np.random.default_rng(0)
    exact = bootstrap = 0
    for _ in range(400):
        right = generator.random(8) < 0.9
        resamples = resample_groups([str(i) for i in range(8)], 0, 400)
        found = share_interval(right, np.full(8, True), resamples)
        exact += found.low <= 0.9 <= found.high
        resampled = ratio_interval(right.astype(float), None, resamples)
        bootstrap += resampled.low <= 0.9 <= resampled.high
    assert exact / 400 >= 0.95
    assert bootstrap / 400 < 0.8
