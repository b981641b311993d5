"""What the experiments are measured by, against plain sums and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from experiments.measures import Predictions, measured

LABELS = ("a", "b", "c")
NAMES = ("accuracy", "auprc", "auprc:a+b", "auprc:c", "recall:a", "recall:b+c", "error:100", "error:50", "cut:50")


@pytest.fixture
def answers() -> Predictions:
    """Twelve answers; the surest half has two wrong ones."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet((1, 1, 1), 12)
    y = [LABELS[(row.argmax() + (number % 3 == 0)) % 3] for number, row in enumerate(p)]
    order = np.argsort([number % 2 for number in range(12)], kind="stable")  # even numbers are the surest
    columns = {f"probability:{label}": [repr(float(x)) for x in p[:, n]] for n, label in enumerate(LABELS)}
    columns |= {"label": y, "entropy": [str(np.flatnonzero(order == number)[0]) for number in range(12)]}
    names = tuple(str(number) for number in range(12))
    return Predictions(names, names, columns)


def test_measures_of_chosen_classes_are_of_these_alone(answers: Predictions) -> None:
    found = {name: values[0] for name, values in measured(answers, NAMES, np.ones((1, 12))).items()}
    p = np.stack([answers.numbers(f"probability:{label}") for label in LABELS], axis=1)
    y = np.array(answers.columns["label"])
    called = np.array(LABELS)[p.argmax(axis=1)]
    precisions = [average_precision_score(y == label, p[:, n]) for n, label in enumerate(LABELS)]
    assert found["auprc"] == pytest.approx(np.mean(precisions))
    assert found["auprc:a+b"] == pytest.approx(np.mean(precisions[:2]))
    assert found["auprc:c"] == pytest.approx(precisions[2])
    assert found["recall:a"] == pytest.approx((called[y == "a"] == "a").mean())
    assert found["recall:b+c"] == pytest.approx((called == y)[y != "a"].mean())
    assert found["accuracy"] == pytest.approx((called == y).mean())
    assert found["error:100"] == pytest.approx((called != y).mean()) == pytest.approx(4 / 12)
    assert found["cut:50"] == pytest.approx(0)
    assert found["error:50"] == pytest.approx((called != y)[::2].mean()) == pytest.approx(2 / 6)


def test_weights_count_rows_as_often(answers: Predictions) -> None:
    weights = np.array([[0, 2, 1, 0, 1, 3, 0, 1, 2, 1, 0, 1]])
    often = np.repeat(np.arange(12), weights[0])
    columns = {name: [values[index] for index in often] for name, values in answers.columns.items()}
    names = tuple(map(str, range(len(often))))
    repeated = measured(Predictions(names, names, columns), NAMES, np.ones((1, len(often))))
    weighted = measured(answers, NAMES, weights)
    for name in NAMES:
        assert weighted[name][0] == pytest.approx(repeated[name][0]), name
