"""A model against the labels of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsi_attn.contract import Progress, no_progress
from wsi_attn.data.manifest import read_manifest
from wsi_attn.data.sources import open_row
from wsi_attn.errors import ManifestError, WsiAttnError
from wsi_attn.evaluate.report import evaluate_predictions
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.predict.slide import PredictConfig, predict_slide


def evaluate_manifest(
    checkpoint: Checkpoint,
    manifest: Path,
    split: str,
    config: PredictConfig,
    *,
    seed: int = 0,
    command: str = "",
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], list[WsiAttnError]]:
    """Metrics of one split, and the errors of slides that could not be answered.

    Parameters
    ----------
    split
        "train", "val", "test", or "all" for every row.

    Raises
    ------
    ManifestError : no such rows, labels that the model does not know, or not one slide could be answered.
    """
    rows = [row for row in read_manifest(manifest) if split in ("all", row.split)]
    if not rows:
        raise ManifestError(f"{manifest} has no rows of split {split!r}; choose another --split")
    index = {name: position for position, name in enumerate(checkpoint.spec.labels)}
    for row in rows:
        if row.label not in index:
            raise ManifestError(
                f"{manifest}, row {row.number}: {checkpoint.name} knows no label {row.label!r}, only {', '.join(index)}"
            )
    answered, probabilities, failures = [], [], []
    for done, row in enumerate(rows, 1):
        try:
            with open_row(row) as slide:
                prediction = predict_slide(slide, checkpoint, config, regions=row.regions)
            answered.append(row)
            probabilities.append(list(prediction.probabilities.values()))
        except WsiAttnError as error:
            failures.append(error)
        progress(done, len(rows), row.path.name)
    if not answered:
        raise ManifestError(f"{manifest}: none of {len(rows)} rows could be answered; the first said: {failures[0]}")
    report = evaluate_predictions(
        [index[row.label] for row in answered],
        np.array(probabilities),
        names=checkpoint.spec.labels,
        groups=[row.patient for row in answered],
        split=split,
        seed=seed,
        command=command,
        model={"name": checkpoint.name, "sha256": checkpoint.sha256},
    )
    return report, failures
