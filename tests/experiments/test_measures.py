"""Statistics of the experiments: hand-computed corrections, and intervals that cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.answers import Labelled
from experiments.measures import Draws, contrasts, estimate, holm, over_seeds, p_value
from wsi_attn.evaluate.intervals import clopper_pearson


def right_or_wrong(right: np.ndarray) -> Labelled:
    """Answers of two classes, of which these are right."""
    called = np.where(right, 0.9, 0.1)
    return Labelled(("a", "b"), np.zeros(len(right), int), np.stack([called, 1 - called], axis=1), np.zeros(len(right)))


def test_holm_by_hand() -> None:
    corrected, levels = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    # The procedure stops at c; b keeps its level although it would be tested at 0.05.
    assert levels == pytest.approx({"d": 1 - 0.05 / 4, "a": 1 - 0.05 / 3, "c": 1 - 0.05 / 2, "b": 1 - 0.05 / 2})


def test_holm_leaves_out_what_has_no_p_value() -> None:
    corrected, levels = holm({"a": 0.02, "b": math.nan})
    assert corrected["a"] == pytest.approx(0.02)
    assert math.isnan(corrected["b"])
    assert levels == pytest.approx({"a": 0.95, "b": 0.95})


def test_p_values_by_hand() -> None:
    differences = np.array([1.0] * 97 + [-1.0] * 2)
    assert p_value(differences, 10) == pytest.approx(2 * 3 / 100)
    assert p_value(np.zeros(99), 10) == 1
    assert p_value(np.ones(99), 10) == pytest.approx(0.02)
    assert math.isnan(p_value(np.ones(99), 2))


def test_the_first_draw_is_the_plain_mean_and_seeds_vary_in_the_others() -> None:
    draws = Draws.of([str(n) for n in range(10)], 500)
    values = [np.full(501, value) for value in (0.2, 0.4, 0.9)]
    drawn = over_seeds(values, draws)
    assert drawn[0] == pytest.approx(0.5)
    variance = np.var([0.2, 0.4, 0.9]) / 3  # of a mean of three draws
    assert np.var(drawn[1:]) == pytest.approx(variance, rel=0.15)
    assert np.ptp(over_seeds(values[:1], draws)) == 0


def test_the_same_groups_and_seeds_are_drawn_for_both_arms() -> None:
    """An arm that is right on the same images and one more has no difference below 0, whatever is drawn."""
    right = np.arange(60) % 3 > 0
    better = right.copy()
    better[:6] = True
    draws = Draws.of([str(n // 2) for n in range(60)])
    one, other = (
        {seed: right_or_wrong(of).measured("accuracy", draws.weights) for seed in (0, 1)} for of in (better, right)
    )
    found = contrasts(one, {"other": other}, draws)["other"]
    assert found.interval.value == pytest.approx(2 / 60)
    assert found.interval.low is not None
    assert found.interval.low >= 0
    assert found.seeds == 2


def test_arms_are_compared_over_the_seeds_that_both_have() -> None:
    draws = Draws.of([str(n) for n in range(5)], 50)
    one, other = {0: np.full(51, 0.9), 1: np.full(51, 0.5)}, {1: np.full(51, 0.4), 2: np.full(51, 0.0)}
    found = contrasts(one, {"other": other, "none": {3: np.zeros(51)}}, draws)
    assert set(found) == {"other"}
    assert found["other"].interval.value == pytest.approx(0.1)


def test_accuracy_of_few_images_is_exact() -> None:
    right = np.array([True] * 11 + [False])
    draws = Draws.of([str(n) for n in range(12)], 200)
    found = estimate({0: right_or_wrong(right), 1: right_or_wrong(np.full(12, True))}, "accuracy", draws)
    mean = (11 / 12 + 1) / 2
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(12 * mean, 12))


def test_two_groups_have_no_interval() -> None:
    draws = Draws.of(["a", "a", "b"], 200)
    answers = {0: right_or_wrong(np.array([True, False, True]))}
    for measure in ("accuracy", "brier"):
        assert estimate(answers, measure, draws).low is None
    value = {0: answers[0].measured("brier", draws.weights)}
    assert contrasts(value, {"same": value}, draws)["same"].corrected.low is None


@pytest.mark.slow
def test_intervals_cover_new_seeds_and_new_patients() -> None:
    """Resampling groups alone would cover in less than 8 of 10 cases if seeds differ as much as here."""
    generator = np.random.default_rng(0)
    both = groups_alone = 0
    for _ in range(200):
        skill = 0.7 + generator.normal(0, 0.06, 5)
        draws = Draws.of([str(n) for n in range(80)], 400)
        patients = generator.normal(0, 0.1, 80)
        answers = {
            seed: right_or_wrong(generator.random(80) < (skill[seed] + patients).clip(0, 1)) for seed in range(5)
        }
        found = estimate(answers, "accuracy", draws)
        assert found.low is not None
        assert found.high is not None
        both += found.low <= 0.7 <= found.high
        alone = np.mean([each.measured("accuracy", draws.weights) for each in answers.values()], axis=0)
        low, high = np.percentile(alone[1:], (2.5, 97.5))
        groups_alone += low <= 0.7 <= high
    assert both / 200 > 0.88
    assert groups_alone < both - 10


@pytest.mark.slow
def test_holm_keeps_the_error_of_a_table() -> None:
    """Five contrasts without a difference: one of them is called significant in about 1 of 20 tables."""
    generator = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        draws = Draws.of([str(n) for n in range(60)], 400)
        arms = [
            {seed: right_or_wrong(generator.random(60) < 0.7).measured("accuracy", draws.weights) for seed in range(3)}
            for _ in range(6)
        ]
        found = contrasts(arms[0], {str(n): arm for n, arm in enumerate(arms[1:])}, draws)
        wrong += any(each.p_corrected < 0.05 for each in found.values())
    assert wrong / 200 < 0.12
