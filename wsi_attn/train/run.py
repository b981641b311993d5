"""A training run, from manifest to checkpoint; a run that was killed goes on, a finished one is left alone."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsi_attn import files
from wsi_attn.contract import Progress, no_progress
from wsi_attn.data.appearance import describe_appearance, fit_appearance
from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.splits import with_validation
from wsi_attn.errors import ManifestError, OutputExistsError
from wsi_attn.evaluate.report import evaluate_predictions
from wsi_attn.models.checkpoint import ModelSpec, save_checkpoint
from wsi_attn.models.systems import build_network, plain_config
from wsi_attn.provenance import sha256_of, software
from wsi_attn.train.card import write_card
from wsi_attn.train.config import TrainConfig
from wsi_attn.train.dataset import Dataset, SlideCache
from wsi_attn.train.loop import Answers, answer, fit

RUN, STATE, CHECKPOINT, METRICS, LOG, SPLITS = (
    "run.json",
    "state",
    "checkpoint",
    "metrics.json",
    "log.csv",
    "splits.csv",
)


@dataclass(frozen=True)
class TrainSummary:
    """What a run came to; `state` is "trained", "resumed" or "skipped", `metrics` those of the validation part."""

    run: Path
    checkpoint: Path
    state: str
    metrics: dict[str, Any]


def train(
    manifest: Path,
    run: Path,
    config: TrainConfig,
    network_options: dict[str, Any] | None = None,
    *,
    name: str | None = None,
    command: str = "",
    overwrite: bool = False,
    progress: Progress = no_progress,
    log: Callable[[dict[str, float]], None] = lambda record: None,
) -> TrainSummary:
    """Train a model on the rows of a manifest.

    Parameters
    ----------
    manifest
        CSV, see `data.manifest`; rows of split `test` are never opened.
    run
        Folder that receives configuration, splits, log, metrics and checkpoint.
    network_options
        Fields of the network's configuration that differ from their defaults.
    name
        Name of the model; that of the run's folder by default.
    command
        The command line, for the card.
    overwrite
        Replace what lies at `run`.
    log
        Told the losses of every finished epoch.

    Raises
    ------
    ManifestError : the manifest cannot be used, or has fewer than two classes.
    OutputExistsError : `run` holds something else.
    """
    rows = with_validation(read_manifest(manifest), config.validation, config.seed)
    labels = sorted({row.label for row in rows if row.split == "train"})
    _check(manifest, rows, labels)
    settings = {
        "format": "wsi-attn run",
        "manifest_sha256": sha256_of(manifest),
        "config": asdict(config),
        "network": network_options or {},
    }
    state = _claim(run, settings, overwrite=overwrite)
    if state == "skipped":
        return TrainSummary(run, run / CHECKPOINT, state, json.loads((run / METRICS).read_text()))
    files.write_text(run / SPLITS, _splits_table(manifest, rows))

    torch.manual_seed(config.seed)
    network = build_network(config.system, {"classes": len(labels), **(network_options or {})}).to(config.device)
    cache = SlideCache()
    training, validation = (
        Dataset([row for row in rows if row.split == split], labels, network, config, cache)
        for split in ("train", "val")
    )
    weights = class_weights(training, len(labels)).to(config.device)
    table = _Log(run / LOG, log)
    progression = fit(network, training, validation, config, weights, run / STATE, progress, table)
    network.load_state_dict(progression.best)
    answers = answer(network, validation, weights)
    metrics = _validation_metrics(answers, labels, validation.rows, config, command, name or run.name)
    spec = ModelSpec(
        labels=tuple(labels),
        mpp=config.mpp,
        stain=config.stain,
        tissue=config.tissue,
        appearance=fit_appearance([describe_appearance(bag.view, bag.tissue) for bag in training.plain_bags()]),
    )
    model_name = name or run.name
    save_checkpoint(
        run / CHECKPOINT,
        name=model_name,
        system=config.system,
        network=network,
        spec=spec,
        card=write_card(model_name, rows, labels, spec, config, metrics, command),
        provenance={**settings, "network": plain_config(network.config), "command": command, "software": software()},
    )
    files.write_json(run / METRICS, metrics)  # last: its presence says that the run is complete
    shutil.rmtree(run / STATE)
    return TrainSummary(run, run / CHECKPOINT, state, metrics)


def class_weights(dataset: Dataset, classes: int) -> torch.Tensor:
    """Weight of each class in the loss: the root of its inverse frequency, mean 1 over the images."""
    index = [dataset.label_index[row.label] for row in dataset.rows]
    counts = np.bincount(index, minlength=classes)
    weights = np.sqrt(1 / counts)
    return torch.tensor(weights / (weights[index].mean()), dtype=torch.float32)


def _check(manifest: Path, rows: Sequence[Row], labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise ManifestError(f"{manifest} has {len(labels)} label among its training rows; at least two are needed")
    if not any(row.split == "val" for row in rows):
        raise ManifestError(
            f"{manifest}: no patient can be spared for validation; add rows, or name `val` rows in `split`"
        )
    for row in rows:
        if row.label not in labels:
            raise ManifestError(f"{manifest}, row {row.number}: label {row.label!r} has no training row")


def _claim(run: Path, settings: dict[str, Any], *, overwrite: bool) -> str:
    """Make the run folder ours; "trained" for a new run, "resumed", or "skipped" where all is done."""
    if overwrite and run.exists():
        shutil.rmtree(run) if run.is_dir() else run.unlink()
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        run.mkdir(parents=True, exist_ok=True)
        files.write_json(run / RUN, settings)
        return "trained"
    try:
        found = json.loads((run / RUN).read_text())
    except (OSError, ValueError):
        raise OutputExistsError(
            f"{run} exists and is no training run; name another folder or add --overwrite"
        ) from None
    if found != json.loads(json.dumps(settings)):  # as the file has them: tuples are lists there
        raise OutputExistsError(
            f"{run} holds a run with other settings or data; name another folder or add --overwrite"
        )
    if (run / METRICS).is_file():
        return "skipped"
    for leftover in run.glob(".*.tmp"):  # of a write that the kill cut off
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return "resumed"


def _splits_table(manifest: Path, rows: Sequence[Row]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "patient", "split"])
    for row in rows:
        path = row.path.relative_to(manifest.parent) if row.path.is_relative_to(manifest.parent) else row.path
        writer.writerow([path.as_posix(), row.label, row.patient, row.split])
    return table.getvalue()


def _validation_metrics(
    answers: Answers, labels: Sequence[str], rows: Sequence[Row], config: TrainConfig, command: str, name: str
) -> dict[str, Any]:
    return evaluate_predictions(
        answers.labels,
        answers.probabilities,
        names=labels,
        groups=[row.patient for row in rows],
        split="val",
        seed=config.seed,
        command=command,
        model={"name": name, "sha256": ""},
    )


class _Log:
    """The CSV of losses, written anew after each epoch so that a resumed run leaves no gap and no repeat."""

    def __init__(self, path: Path, tell: Callable[[dict[str, float]], None]) -> None:
        self.path = path
        self.tell = tell
        self.records: list[dict[str, float]] = []

    def __call__(self, record: dict[str, float]) -> None:
        self.records.append(record)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(record), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in entry.items()} for entry in self.records)
        files.write_text(self.path, table.getvalue())
        self.tell(record)
