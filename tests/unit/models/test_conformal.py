"""Coverage on exchangeable images, the ranks of the quantile, and what a checkpoint refuses."""

import numpy as np
import pytest

from wsi_attn.errors import UsageError
from wsi_attn.evaluate.intervals import resample_groups
from wsi_attn.evaluate.sections import conformal_section
from wsi_attn.models.calibration import Calibration
from wsi_attn.models.conformal import (
    COVERAGES,
    conformal_quantile,
    conformal_thresholds,
    in_set,
    mean_thresholds,
    threshold_of,
)


def drawn(n, generator):
    """Labels, and answers that know something of them."""
    true = generator.dirichlet(np.ones(4) * 0.5, n)
    labels = (true.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    noisy = true + 0.2 * generator.random((n, 4))
    return labels, noisy / noisy.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("coverage", COVERAGES)
def test_coverage_is_what_was_asked(coverage):
    """Over many draws of 50 images the mean coverage is k / (n + 1), k the rank, within four standard errors."""
    generator = np.random.default_rng(0)
    n, repeats, per_repeat = 50, 400, 50
    hits = 0
    for _ in range(repeats):
        threshold = conformal_thresholds(*drawn(n, generator))[str(coverage)]
        labels, probabilities = drawn(per_repeat, generator)
        hits += in_set(probabilities, threshold)[np.arange(per_repeat), labels].sum()
    expected = np.ceil((n + 1) * coverage) / (n + 1)
    spread = np.sqrt(expected * (1 - expected) / repeats * (1 / per_repeat + 1 / (n + 2)))
    assert hits / (repeats * per_repeat) == pytest.approx(expected, abs=4 * spread)
    assert expected >= coverage


def test_ranks_of_the_quantile():
    scores = np.arange(1, 20) / 20  # 19 scores
    assert conformal_quantile(scores, 0.95) == 19 / 20  # k = 19, and not 20 by a rounding error
    assert conformal_quantile(scores[:18], 0.95) is None
    assert conformal_quantile(scores[:9], 0.9) == 9 / 20
    assert conformal_quantile(scores[:8], 0.9) is None
    assert conformal_quantile(scores[:4], 0.8) == 4 / 20
    assert conformal_quantile(scores[:3], 0.8) is None


def test_sets_hold_what_is_probable_enough():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.5, 0.45, 0.05], [0.34, 0.33, 0.33]])
    np.testing.assert_array_equal(in_set(probabilities, 0.6).sum(axis=1), [1, 2, 0])


def test_measured_coverage_size_and_doubt():
    labels = np.array([0, 1, 2, 0])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.5, 0.45, 0.05], [0.34, 0.33, 0.33], [0.2, 0.7, 0.1]])
    resamples = resample_groups(["a", "b", "c", "d"], 0)
    found = conformal_section(labels, probabilities, {"0.9": 0.6, "0.95": None}, resamples, [Calibration()])
    at = found["coverages"]["0.9"]
    assert at["coverage"]["value"] == 2 / 4
    assert at["set_size"]["value"] == 1.0
    assert at["unsure"]["value"] == 2 / 4
    assert at["coverage"]["low"] <= 0.5 <= at["coverage"]["high"]
    assert found["coverages"]["0.95"] == {"threshold": None}


def test_a_checkpoint_says_what_it_cannot():
    thresholds = {"0.8": 0.5, "0.9": None}
    assert threshold_of(thresholds, 0.8, "m") == 0.5
    with pytest.raises(UsageError, match=r"m was validated on too few images for a coverage of 0.9; choose one of 0.8"):
        threshold_of(thresholds, 0.9, "m")
    with pytest.raises(UsageError, match=r"no threshold for a coverage of 0.85; choose one of 0.8"):
        threshold_of(thresholds, 0.85, "m")
    with pytest.raises(UsageError, match="without --coverage"):
        threshold_of({}, 0.9, "m")
    with pytest.raises(UsageError, match="without --coverage"):
        threshold_of({"0.9": None}, 0.9, "m")


def test_several_networks_share_the_mean():
    assert mean_thresholds([{"0.8": 0.4, "0.9": 0.5}, {"0.8": 0.6, "0.9": None}]) == {"0.8": 0.5, "0.9": None}
