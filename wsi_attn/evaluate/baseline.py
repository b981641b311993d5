"""The thumbnail baseline: a support vector machine on thumbnails of the slides.

If colour and coarse shape of a thumbnail already separate the classes (the stain of one hospital, the glass of one
scanner), a high score of an attention model means little. This baseline measures the effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsi_attn.errors import UsageError

C_GRID = (0.1, 1.0, 10.0, 100.0)
FOLDS = 5
COMPONENTS = 128

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


def thumbnail_svm(
    train_thumbnails: NDArray[np.uint8],
    train_labels: ArrayLike,
    test_thumbnails: NDArray[np.uint8],
    n_classes: int,
    seed: int,
    groups: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Predict class probabilities of the test slides from their thumbnails.

    Pixels are standardised over the training slides and, if there are many, reduced to their first `COMPONENTS`
    principal components. The classifier has an RBF kernel and balanced class weights. `C` is chosen from `C_GRID` by
    balanced accuracy over grouped folds of the training set (the smaller value of ties), and probabilities come
    from Platt scaling of the decision values of the same folds.

    Parameters
    ----------
    train_thumbnails, test_thumbnails
        uint8 (n, h, w, 3), one size for all; 32 or 64 pixels per side suffice, and time grows with h * w.
    train_labels
        int (n,), 0 to `n_classes` - 1. Classes without training slides get probability 0.
    n_classes
        C, number of columns of the result.
    seed
        Seed of the folds.
    groups
        Patient of each training slide; None treats each slide as a patient.

    Returns
    -------
    float64 (n_test, C), rows sum to 1.

    Raises
    ------
    UsageError : thumbnails of different sizes, fewer than two classes, or a class with fewer than two
        patients.
    """
    from sklearn.calibration import CalibratedClassifierCV

    labels = np.asarray(train_labels, np.int64)
    if train_thumbnails.shape[1:] != test_thumbnails.shape[1:]:
        raise UsageError(
            f"Thumbnails differ in size: {train_thumbnails.shape[1:]} to train, {test_thumbnails.shape[1:]} to test"
        )
    train, test = _flat(train_thumbnails), _flat(test_thumbnails)
    folds = grouped_folds(labels, groups if groups is not None else [str(i) for i in range(labels.size)], seed)
    components = min(COMPONENTS, train.shape[1], min(len(rest) for rest, _ in folds))
    best = max(C_GRID, key=lambda c: (_held_out_score(train, labels, folds, c, components, seed), -c))
    machine = CalibratedClassifierCV(_machine(best, components, seed), method="sigmoid", cv=folds, ensemble=False).fit(
        train, labels
    )
    probabilities = np.zeros((len(test), n_classes))
    if len(test):
        probabilities[:, machine.classes_] = machine.predict_proba(test)
    return probabilities


def grouped_folds(labels: NDArray[np.int64], groups: Sequence[str], seed: int) -> list[Fold]:
    """Return up to `FOLDS` pairs of (train, held-out) indices that split no group; each training part contains all
    classes.

    The shuffled groups of each class are assigned to the folds in turn, so that a class with two groups is held out
    in two folds and trained on in all. A group with several classes counts for its rarest.

    Raises
    ------
    UsageError : fewer than two classes, or a class that cannot be in every training part.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise UsageError("The thumbnail baseline needs training slides of at least two classes")
    member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(member.max() + 1)
    fold_of = np.full(member.max() + 1, -1)
    for c in classes[np.argsort(counts, kind="stable")]:
        own = set(member[labels == c].tolist())
        free = [group for group in order.tolist() if group in own and fold_of[group] < 0]
        fold_of[free] = np.arange(len(free)) % FOLDS
    fold = fold_of[member]
    pairs = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
    for train, _ in pairs:
        missing = np.setdiff1d(classes, labels[train])
        if missing.size:
            raise UsageError(
                f"The thumbnail baseline needs at least two patients per class; class {missing[0]} has fewer"
            )
    return pairs


def _held_out_score(
    train: NDArray[np.float32], labels: NDArray[np.int64], folds: list[Fold], c: float, components: int, seed: int
) -> float:
    """Return the mean recall over classes of the held-out slides, of all folds together.

    `GridSearchCV` would average the folds, whose recall is undefined for a class that is held out in only two of them.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict

    called = cross_val_predict(_machine(c, components, seed), train, labels, cv=folds)
    return float(balanced_accuracy_score(labels, called))


def _machine(c: float, components: int, seed: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    reduce = PCA(components, svd_solver="randomized", random_state=seed)
    return make_pipeline(StandardScaler(), reduce, SVC(C=c, kernel="rbf", class_weight="balanced"))


def _flat(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    return thumbnails.reshape(len(thumbnails), int(np.prod(thumbnails.shape[1:]))).astype(np.float32)
