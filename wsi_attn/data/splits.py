"""Patient-wise splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wsi_attn.data.manifest import Row
from wsi_attn.errors import ManifestError


def with_validation(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Return the rows with a validation set, drawn from the training patients if the manifest has none.

    The draw is stratified by label; a label with a single training
    patient keeps it for training. Rows without a split belong to the training set.

    Parameters
    ----------
    share
        Share of each label's training patients, 0 to 1.
    seed
        Seed of the random draw.
    """
    rows = [row if row.split else replace(row, split="train") for row in rows]
    if any(row.split == "val" for row in rows):
        return rows
    generator = np.random.default_rng(seed)
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.split == "train" and row.patient not in {p for patients in by_label.values() for p in patients}:
            by_label[row.label].append(row.patient)
    held: set[str] = set()
    for label in sorted(by_label):
        patients = sorted(by_label[label])
        count = min(len(patients) - 1, max(1, round(share * len(patients))))
        held.update(generator.permutation(patients)[:count].tolist())
    return [replace(row, split="val") if row.split == "train" and row.patient in held else row for row in rows]


def fold_rows(rows: Sequence[Row], folds: int, validation: float, seed: int) -> list[list[Row]]:
    """Return the rows of a cross-validation for each fold with their splits; `test` is the held-out fold.

    Patients are assigned to folds, stratified by label (`StratifiedGroupKFold` of scikit-learn). The validation set
    is drawn from the remaining patients, see `with_validation`, so that the held-out fold affects no choice. Rows with
    split `test` in the manifest take no part; its `val` rows are treated like all others.

    Parameters
    ----------
    folds
        Number of folds K, at least 2.
    validation, seed
        Share of the training patients in the validation set, and seed of both draws.

    Returns
    -------
    K lists of the same rows in manifest order.

    Raises
    ------
    ManifestError : a label with fewer than K patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second, which would slow down `--help`

    rows = [replace(row, split="") for row in rows if row.split != "test"]
    labels, patients = [row.label for row in rows], [row.patient for row in rows]
    for label in sorted(set(labels)):
        count = len({row.patient for row in rows if row.label == label})
        if count < folds:
            raise ManifestError(f"--folds {folds}: label {label!r} has {count} patients, but needs at least {folds}")
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = []
    for _, held in dealer.split(np.zeros(len(rows)), labels, patients):
        chosen = set(held.tolist())
        part = [replace(row, split="test") if index in chosen else row for index, row in enumerate(rows)]
        parts.append(with_validation(part, validation, seed))
    return parts
