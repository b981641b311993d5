"""Splits by patient, never by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wsi_attn.data.manifest import Row


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
