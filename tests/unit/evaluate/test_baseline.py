"""The thumbnail baseline learns what colour tells, learns nothing from noise, and splits no patient."""

import numpy as np
import pytest

from wsi_attn.errors import UsageError
from wsi_attn.evaluate.baseline import FOLDS, grouped_folds, thumbnail_svm


def thumbnails(labels, seed, contrast=40):
    noise = np.random.default_rng(seed).integers(0, 60, (len(labels), 8, 8, 3))
    noise[..., 0] += contrast * np.asarray(labels)[:, None, None]
    return noise.astype(np.uint8)


def test_classes_of_different_colour_are_told_apart():
    labels = np.arange(45) % 3
    probabilities = thumbnail_svm(thumbnails(labels, 0), labels, thumbnails(labels, 1), 3, seed=0)
    assert probabilities.shape == (45, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9


def test_the_same_seed_gives_the_same_probabilities_and_missing_classes_get_zero():
    labels = np.where(np.arange(20) % 2, 2, 0)
    first, second = (thumbnail_svm(thumbnails(labels, 0), labels, thumbnails([0, 2], 1), 4, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first[:, [1, 3]] == 0).all()


def test_noise_is_not_learned():
    labels = np.arange(40) % 2
    found = thumbnail_svm(thumbnails(labels, 0, 0), labels, thumbnails(labels, 1, 0), 2, seed=0)
    assert abs((found.argmax(axis=1) == labels).mean() - 0.5) < 0.25


def test_no_test_slides_give_no_rows():
    labels = np.arange(8) % 2
    assert thumbnail_svm(thumbnails(labels, 0), labels, np.zeros((0, 8, 8, 3), np.uint8), 2, seed=0).shape == (0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_folds_split_no_patient_and_always_train_on_all_classes(seed):
    labels = np.array([0] * 30 + [1] * 4)
    groups = [f"p{i // 3}" for i in range(30)] + ["r0", "r0", "r1", "r1"]
    folds = grouped_folds(labels, groups, seed)
    assert 2 <= len(folds) <= FOLDS
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in folds])), np.arange(34))
    for train, held in folds:
        assert not {groups[i] for i in train} & {groups[i] for i in held}
        assert set(labels[train]) == {0, 1}


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(UsageError, match="two classes"):
        grouped_folds(np.zeros(4, np.int64), list("abcd"), 0)
    with pytest.raises(UsageError, match="two patients per class; class 1"):
        grouped_folds(np.array([0, 0, 1, 1]), list("abcc"), 0)
    with pytest.raises(UsageError, match="differ in size"):
        thumbnail_svm(thumbnails([0, 1], 0), [0, 1], np.zeros((1, 4, 4, 3), np.uint8), 2, 0)
