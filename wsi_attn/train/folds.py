"""Cross-validation by patient: K training runs and the metrics of their held-out predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.splits import fold_rows
from wsi_attn.evaluate.html import write_html_report
from wsi_attn.evaluate.report import evaluate_predictions
from wsi_attn.outputs import files
from wsi_attn.slide import BatchProgress, no_progress
from wsi_attn.tasks.config import Resources, TrainConfig
from wsi_attn.train.run import METRICS, PREDICTIONS, REPORT, check_rows, claim_together, train_rows, training_context
from wsi_attn.train.start import NO_WEIGHTS

OUT_OF_FOLD = "out-of-fold"
"""What the pooled metrics call their split."""


@dataclass(frozen=True)
class FoldsSummary:
    """Result of a cross-validation; `metrics` are those of all held-out rows together."""

    run: Path
    folds: tuple[Path, ...]
    state: str
    metrics: dict[str, Any]


def cross_validate(
    manifest: Path,
    run: Path,
    config: TrainConfig,
    network_options: dict[str, Any] | None = None,
    *,
    weights: str = NO_WEIGHTS,
    name: str | None = None,
    command: str = "",
    overwrite: bool = False,
    resources: Resources | None = None,
    progress: BatchProgress = no_progress,
    log: Callable[[dict[str, float]], None] = lambda record: None,
    say: Callable[[str], None] = lambda warning: None,
) -> FoldsSummary:
    """Train `config.folds` models, each of which predicts the patients that it was not trained on.

    `RUN/fold-1` to `RUN/fold-K` are run folders of `train`; each takes its validation set from its
    training patients, so that the held-out fold influences nothing. `RUN/metrics.json` pools the held-out
    predictions, with intervals that resample patients. An interrupted run resumes in the fold that was in progress.
    Parameters and errors are those of `train.run.train`; rows of split `test` take no part.
    """
    folds = fold_rows(read_manifest(manifest), config.folds, config.validation, config.seed)
    labels = sorted({row.label for rows in folds for row in rows})
    for rows in folds:
        check_rows(manifest, rows, sorted({row.label for row in rows if row.split == "train"}))
    name = name or run.name
    with training_context(
        manifest, run, config, network_options, weights, command, resources, progress, log, say
    ) as context:
        state = claim_together(context.fabric, run, context.settings(), overwrite=overwrite)
        folders = tuple(run / f"fold-{number}" for number in range(1, config.folds + 1))
        if state != "skipped":
            for number, (folder, rows) in enumerate(zip(folders, folds, strict=True), 1):
                with progress.item(number, config.folds, folder.name) as item:
                    fold = replace(context, progress=item)
                    fold_name = f"{name}-{number}"
                    done = train_rows(fold, folder, rows, labels, name=fold_name, part={"fold": number}, held_out=True)
                    item.state = done.state
            if context.fabric.is_global_zero:
                metrics = _pooled(folders, folds, labels, config, command, name)
                write_html_report(run / REPORT, metrics)
                files.write_json(run / METRICS, metrics)  # written last: it marks all folds as complete
            context.fabric.barrier()
        return FoldsSummary(run, folders, state, json.loads((run / METRICS).read_text()))


def _pooled(
    folders: Sequence[Path],
    folds: Sequence[Sequence[Row]],
    labels: Sequence[str],
    config: TrainConfig,
    command: str,
    name: str,
) -> dict[str, Any]:
    """Return the metrics of all held-out rows, and of each fold under `per_fold`."""
    held = [[row for row in rows if row.split == "test"] for rows in folds]
    predictions = [_held_out_predictions(folder, labels) for folder in folders]

    def metrics_of(rows: Sequence[Row], probabilities: Sequence[list[float]]) -> dict[str, Any]:
        return evaluate_predictions(
            [labels.index(row.label) for row in rows],
            np.array(probabilities),
            names=labels,
            groups=[row.patient for row in rows],
            split=OUT_OF_FOLD,
            seed=config.seed,
            command=command,
            model={"name": name, "sha256": ""},
        )

    pooled = metrics_of([row for rows in held for row in rows], [shares for part in predictions for shares in part])
    alone = [metrics_of(rows, shares) for rows, shares in zip(held, predictions, strict=True)]
    kept = ("n", "groups", "accuracy", "balanced_accuracy", "auroc")
    pooled["per_fold"] = [{key: metrics[key] for key in kept} for metrics in alone]
    return pooled


def _held_out_predictions(folder: Path, labels: Sequence[str]) -> list[list[float]]:
    """Return the probabilities of a fold's held-out rows, in manifest order."""
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = [record for record in csv.DictReader(file) if record["split"] == "test"]
    return [[float(record[f"p:{label}"]) for label in labels] for record in rows]
