"""Splits by patient, never by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wsi_attn.data.manifest import Row
from wsi_attn.errors import ManifestError


def with_validation(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """The rows with a validation part, carved out of the training patients where the manifest gives none.

    Patients are drawn within each label, so that every class keeps its share; a label with a single training
    patient keeps it for training. Rows without a split count as training.

    Parameters
    ----------
    share
        Part of each label's training patients, 0 to 1.
    seed
        Seed of the draw.
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
    """The rows of a cross-validation, once for each fold, with their splits: `test` is the part that is held out.

    Patients are dealt to the folds so that the labels are shared out evenly (scikit-learn's `StratifiedGroupKFold`).
    The validation part is carved out of what is left, see `with_validation`: what is held out decides nothing. Rows
    that the manifest itself calls `test` take no part; its `val` rows are dealt like all others.

    Parameters
    ----------
    folds
        K, at least 2.
    validation, seed
        Share of the training patients to validate on, and seed of both draws.

    Returns
    -------
    K lists of the same rows in manifest order.

    Raises
    ------
    ManifestError : a label with fewer than K patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # loading it takes a second, which `--help` should not pay

    rows = [replace(row, split="") for row in rows if row.split != "test"]
    labels, patients = [row.label for row in rows], [row.patient for row in rows]
    for label in sorted(set(labels)):
        count = len({row.patient for row in rows if row.label == label})
        if count < folds:
            raise ManifestError(f"--folds {folds}: label {label!r} has {count} patients; at least {folds} are needed")
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = []
    for _, held in dealer.split(np.zeros(len(rows)), labels, patients):
        chosen = set(held.tolist())
        part = [replace(row, split="test") if index in chosen else row for index, row in enumerate(rows)]
        parts.append(with_validation(part, validation, seed))
    return parts
