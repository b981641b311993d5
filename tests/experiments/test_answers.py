"""What the experiments are measured by, against plain sums and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from experiments.answers import Labelled, Pixels, area_under_risk, averaged
from wsi_attn.evaluate.uncertainty import risk_curve

LABELS = ("a", "b", "c")
NAMES = ("accuracy", "auprc", "auprc:a+b", "auprc:c", "recall:a", "recall:b+c", "error:100", "error:50", "aurc")


@pytest.fixture
def answers() -> Labelled:
    """Twelve answers; the surest half has two wrong ones."""
    p = np.random.default_rng(3).dirichlet((1, 1, 1), 12)
    y = np.array([(row.argmax() + (number % 3 == 0)) % 3 for number, row in enumerate(p)])
    order = np.argsort([number % 2 for number in range(12)], kind="stable")  # even numbers are the surest
    return Labelled(LABELS, y, p, np.argsort(order).astype(float))


def measured(answers: Labelled, weights: np.ndarray) -> dict[str, float]:
    return {name: float(answers.measured(name, weights)[0]) for name in NAMES}


def test_measures_of_chosen_classes_are_of_these_alone(answers: Labelled) -> None:
    found = measured(answers, np.ones((1, 12)))
    p, y = answers.probabilities, answers.truth
    called = p.argmax(axis=1)
    precisions = [average_precision_score(y == n, p[:, n]) for n in range(3)]
    assert found["auprc"] == pytest.approx(np.mean(precisions))
    assert found["auprc:a+b"] == pytest.approx(np.mean(precisions[:2]))
    assert found["auprc:c"] == pytest.approx(precisions[2])
    assert found["recall:a"] == pytest.approx((called[y == 0] == 0).mean())
    assert found["recall:b+c"] == pytest.approx((called == y)[y != 0].mean())
    assert found["accuracy"] == pytest.approx((called == y).mean())
    assert found["error:100"] == pytest.approx((called != y).mean()) == pytest.approx(4 / 12)
    assert found["error:50"] == pytest.approx((called != y)[::2].mean()) == pytest.approx(2 / 6)
    wrong = (called != y)[np.argsort(answers.uncertainty)]
    assert found["aurc"] == pytest.approx(np.mean(wrong.cumsum() / np.arange(1, 13)))
    assert answers.counted("recall:a").tolist() == (y == 0).tolist()
    assert answers.counted("auroc") is None


def test_weights_count_rows_as_often(answers: Labelled) -> None:
    weights = np.array([[0, 2, 1, 0, 1, 3, 0, 1, 2, 1, 0, 1.0]])
    often = np.repeat(np.arange(12), weights[0].astype(int))
    each = (answers.truth[often], answers.probabilities[often], answers.uncertainty[often])
    assert measured(answers, weights) == pytest.approx(measured(Labelled(LABELS, *each), np.ones((1, len(often)))))


def test_pixels_are_pooled_and_columns_averaged() -> None:
    nan = np.nan
    found = Pixels(
        {
            "tp": np.array([8.0, 0, 2]),
            "fp": np.array([2.0, 4, 0]),
            "fn": np.array([0.0, 4, 2]),
            "f": np.array([1, nan, 0]),
        }
    )
    assert found.measured("dice", np.ones((1, 3)))[0] == pytest.approx(2 * 10 / (2 * 10 + 6 + 6))
    assert found.measured("dice", np.array([[1.0, 0, 1]]))[0] == pytest.approx(20 / 24)
    assert found.measured("f", np.array([[3.0, 5, 1]]))[0] == pytest.approx(3 / 4)


def test_models_are_averaged_by_their_probabilities(answers: Labelled) -> None:
    other = Labelled(LABELS, answers.truth, answers.probabilities[:, ::-1], answers.uncertainty)
    mean = averaged([answers, other])
    np.testing.assert_allclose(mean.probabilities[:, 0], answers.probabilities[:, [0, 2]].mean(axis=1))
    np.testing.assert_allclose(mean.uncertainty, -(mean.probabilities * np.log(mean.probabilities)).sum(axis=1))


def test_the_area_under_the_risk_curve_is_the_mean_of_the_curve() -> None:
    generator = np.random.default_rng(0)
    uncertainty, wrong = generator.integers(0, 9, 30) / 10, generator.random(30) < 0.3  # with ties
    weights = generator.integers(0, 4, (20, 30)).astype(float)
    expected = [risk_curve(uncertainty, wrong, counts).mean() for counts in weights]
    np.testing.assert_allclose(area_under_risk(uncertainty, wrong, weights), expected)
