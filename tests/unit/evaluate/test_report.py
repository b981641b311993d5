"""The JSON object of `wsi-attn evaluate`."""

import json

import numpy as np
import pytest

from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.metrics import OVERALL, PER_CLASS
from wsi_attn.evaluate.report import Origin, evaluate_predictions


def report(labels, probabilities, groups=None, names=("lung", "skin", "colon"), seed=1):
    groups = groups if groups is not None else [str(i) for i in range(len(labels))]
    origin = Origin("test", seed, "wsi-attn evaluate run", {"name": "m", "sha256": "0" * 64})
    return evaluate_predictions(labels, probabilities, names, groups, origin).record()


def noisy(n, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    probabilities = generator.dirichlet(np.ones(3), n) + np.eye(3)[labels] * 0.5
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_the_object_has_all_fields_and_is_json():
    labels, probabilities = noisy(30)
    found = report(labels, probabilities, groups=[str(i // 3) for i in range(30)])
    json.dumps(found, allow_nan=False)
    assert (found["n"], found["groups"], found["split"], found["seed"]) == (30, 10, "test", 1)
    assert found["labels"] == ["lung", "skin", "colon"]
    for key in OVERALL:
        assert found[key]["low"] <= found[key]["value"] <= found[key]["high"] or key == "ece"
    for values in found["per_class"].values():
        assert set(values) == {"support", *PER_CLASS}
        assert set(values["recall"]) == {"value", "low", "high"}
    assert np.sum(found["confusion_matrix"]) == 30


def test_the_same_seed_gives_the_same_object():
    labels, probabilities = noisy(20)
    assert report(labels, probabilities) == report(labels, probabilities)
    assert report(labels, probabilities) != report(labels, probabilities, seed=2)


def test_an_absent_class_is_null_and_never_nan():
    found = report(np.array([0, 1] * 5), np.eye(3)[[0, 1] * 5])
    assert found["per_class"]["colon"]["recall"] == {"value": None, "low": None, "high": None}
    assert found["per_class"]["colon"]["support"] == 0
    assert found["macro_f1"]["value"] == 1
    json.dumps(found, allow_nan=False)


def test_one_slide_has_values_and_no_intervals():
    found = report(np.array([0]), np.eye(3)[:1])
    assert found["accuracy"] == {"value": 1.0, "low": None, "high": None}
    assert found["auroc"] == {"value": None, "low": None, "high": None}
    json.dumps(found, allow_nan=False)


def test_skipped_resamples_are_told():
    labels = np.array([0] * 20 + [1] * 2)
    found = report(labels, np.eye(3)[labels])
    assert 0 < found["intervals"]["skipped"]["auroc"] < 500
    assert found["intervals"]["skipped"]["accuracy"] == 0


def test_groups_that_do_not_match_are_refused():
    with pytest.raises(PredictionError):
        report(np.array([0, 1, 2]), np.eye(3), groups=["a", "b"])
