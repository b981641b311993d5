"""A training run from manifest to checkpoint. An interrupted run resumes; a finished run is skipped."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsi_attn.data.annotations import check_regions
from wsi_attn.data.appearance import describe_appearance, fit_appearance
from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.splits import with_validation
from wsi_attn.devices import resolve_device
from wsi_attn.errors import ManifestError
from wsi_attn.evaluate.html import write_html_report
from wsi_attn.evaluate.report import evaluate_predictions
from wsi_attn.models.base import SlideModel
from wsi_attn.models.calibration import fit_calibration
from wsi_attn.models.checkpoint import save_checkpoint
from wsi_attn.models.configs import task_of
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import plain_config
from wsi_attn.outputs import files
from wsi_attn.outputs.lock import output_lock
from wsi_attn.outputs.policy import Found, Output, State, complete, decide, nothing, other, same, unfinished
from wsi_attn.provenance import sha256_of, software
from wsi_attn.slide import Progress, no_progress
from wsi_attn.tasks.classification.class_losses import effective_number_weights
from wsi_attn.tasks.classification.dataset import Dataset
from wsi_attn.tasks.classification.lesions import lesion_rows, rare_labels
from wsi_attn.tasks.config import Resources, TrainConfig
from wsi_attn.tasks.segmentation.boxes import box_finder
from wsi_attn.train.card import write_card
from wsi_attn.train.distributed import finish, make_fabric
from wsi_attn.train.log import EpochLog, check_tensorboard
from wsi_attn.train.loop import Predictions, fit, predict
from wsi_attn.train.start import NO_WEIGHTS, check_options, new_network, weights_record

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RUN, STATE, CHECKPOINT, METRICS, LOG, SPLITS, PREDICTIONS, REPORT, BOARD = (
    "run.json",
    "state",
    "checkpoint",
    "metrics.json",
    "log.csv",
    "splits.csv",
    "predictions.csv",
    "report.html",
    "tensorboard",
)

FORMAT = "wsi-attn run"


@dataclass(frozen=True)
class TrainSummary:
    """Result of a run: `state` is "trained", "resumed" or "skipped", `metrics` are those of the validation set."""

    run: Path
    checkpoint: Path
    state: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class TrainingContext:
    """What the models of a run share; see `train`."""

    manifest: Path
    config: TrainConfig
    options: dict[str, Any]
    weights: str
    command: str
    resources: Resources
    fabric: Fabric
    cache: SlideCache
    progress: Progress
    log: Callable[[dict[str, float]], None]
    say: Callable[[str], None]

    def settings(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to resume."""
        return {
            "format": FORMAT,
            "manifest_sha256": sha256_of(self.manifest),
            "config": asdict(self.config),
            "network": self.options,
            "weights": weights_record(self.weights),
        }


def train(
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
    progress: Progress = no_progress,
    log: Callable[[dict[str, float]], None] = lambda record: None,
    say: Callable[[str], None] = lambda warning: None,
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
    weights
        Initial weights of timm backbones, see `start.new_network`.
    name
        Name of the model; the name of the run folder by default.
    command
        The command line, for the card.
    overwrite
        Replace an existing `run`.
    resources
        Threads, memory and extra logs.
    log
        Called with the losses of every finished epoch.
    say
        Called with the warnings of the system about the training set.

    Raises
    ------
    ManifestError : the manifest is invalid or has fewer than two classes.
    OutputExistsError : `run` contains something else.
    UsageError : options that the system does not have, or a precision that the device does not support.
    MissingExtraError : TensorBoard or timm is requested but not installed.
    """
    rows = with_validation(read_manifest(manifest), config.validation, config.seed)
    labels = sorted({row.label for row in rows if row.split == "train"})
    check_rows(manifest, rows, labels)
    with training_context(
        manifest, run, config, network_options, weights, command, resources, progress, log, say
    ) as context:
        return train_rows(context, run, rows, labels, name=name or run.name, overwrite=overwrite)


@contextmanager
def training_context(
    manifest: Path,
    run: Path,
    config: TrainConfig,
    network_options: dict[str, Any] | None,
    weights: str,
    command: str,
    resources: Resources | None,
    progress: Progress,
    log: Callable[[dict[str, float]], None],
    say: Callable[[str], None],
) -> Iterator[TrainingContext]:
    """Check the options, start the devices and lock the run folder; all ranks end together.

    Raises
    ------
    OutputBusyError : another process trains there.
    """
    options = network_options or {}
    resources = resources or Resources()
    config = replace(config, device=resolve_device(config.device))
    config.refuse_options_of_other_tasks(task_of(config.system))
    check_options(config.system, options, warm_up=config.warm_up_epochs > 0)
    if resources.tensorboard:
        check_tensorboard()
    fabric = make_fabric(config)
    cache = SlideCache(resources.cache_mb << 20)
    with output_lock(run) if fabric.is_global_zero else nullcontext():
        yield TrainingContext(manifest, config, options, weights, command, resources, fabric, cache, progress, log, say)
    finish(fabric)


def train_rows(
    context: TrainingContext,
    run: Path,
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    name: str,
    overwrite: bool = False,
    part: dict[str, Any] | None = None,
    held_out: bool = False,
) -> TrainSummary:
    """Train one model on rows with splits.

    Parameters
    ----------
    part
        Further settings that must be equal for the run to resume.
    held_out
        Also predict the rows of split `test`, in `predictions.csv`.
    """
    config, fabric = context.config, context.fabric
    settings = context.settings() | (part or {})
    state = claim_together(fabric, run, settings, overwrite=overwrite)
    if state == "skipped":
        return TrainSummary(run, run / CHECKPOINT, state, json.loads((run / METRICS).read_text()))
    if fabric.is_global_zero:
        files.write_text(run / SPLITS, splits_table(context.manifest, rows))

    context.progress(0, 1, "preparing")
    network = new_network(config.system, {"classes": len(labels), **context.options}, context.weights, config.seed)

    def part_of(split: str) -> Dataset:
        chosen = [row for row in rows if row.split == split]
        rank, ranks = fabric.global_rank, fabric.world_size
        return Dataset(chosen, labels, network, config, context.cache, context.resources, rank=rank, ranks=ranks)

    training, validation = part_of("train"), part_of("val")
    _check_regions(context, [*training.rows, *validation.rows])
    training.lesions = _lesions(context, training.rows, labels)
    kind = "effective" if config.loss == "class-balanced" else config.class_weights
    balance = class_weights(training, len(labels), kind, config.beta)
    for warning in network.prepare(training.as_they_are()):
        context.say(f"warning: {warning}")
    board = run / BOARD if context.resources.tensorboard else None
    table = EpochLog(run / LOG if fabric.is_global_zero else None, board, context.log)
    weighed = balance.double().numpy()

    def validate(smooth: SlideModel) -> dict[str, float]:
        return predict(fabric, smooth, validation).scores(weighed)

    progression = fit(fabric, network, training, validate, config, balance, run / STATE, context.progress, table)
    table.close()
    network.load_state_dict(progression.best)
    network.finish()
    predictions = predict(fabric, network, validation, context.progress)
    held = part_of("test") if held_out else None
    held_predictions = predict(fabric, network, held, context.progress) if held else None
    if fabric.is_global_zero:
        context.progress(0, 1, "computing metrics")
        metrics = _validation_metrics(predictions, labels, validation.rows, config, context.command, name)
        predicted = [(validation.rows, predictions)] + (
            [(held.rows, held_predictions)] if held and held_predictions else []
        )
        files.write_text(run / PREDICTIONS, _predictions_table(context.manifest, labels, predicted))
        spec = _specification(config, labels, training, predictions, context.progress)
        context.progress(0, 1, "writing the checkpoint")
        save_checkpoint(
            run / CHECKPOINT,
            name=name,
            system=config.system,
            network=network,
            spec=spec,
            card=write_card(name, rows, labels, spec, config, metrics, context.command),
            provenance={
                **settings,
                "network": plain_config(network.config),
                "command": context.command,
                "software": software(),
            },
        )
        context.progress(0, 1, "writing the report")
        write_html_report(run / REPORT, metrics)
        files.write_json(run / METRICS, metrics)  # written last: it marks the run as complete
        shutil.rmtree(run / STATE)
    fabric.barrier()
    return TrainSummary(run, run / CHECKPOINT, state, json.loads((run / METRICS).read_text()))


def class_weights(dataset: Dataset, classes: int, kind: str = "root", beta: float = 0.0) -> torch.Tensor:
    """Weight of each class in the loss, float32 (C,), mean 1 over the images.

    "balanced" is the inverse frequency, "root" its square root, "none" is 1, and "effective" is the weight of the
    class-balanced loss with `beta`.
    """
    index = [dataset.label_index[row.label] for row in dataset.rows]
    counts = np.bincount(index, minlength=classes)
    if kind == "effective":
        weights = effective_number_weights(counts, beta)
    else:
        weights = (1 / counts) ** {"none": 0.0, "root": 0.5, "balanced": 1.0}[kind]
    return torch.tensor(weights / (weights[index].mean()), dtype=torch.float32)


def check_rows(manifest: Path, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Check that rows with splits can be trained on.

    Raises
    ------
    ManifestError : fewer than two classes, nothing to validate on, or a label without a training row.
    """
    if len(labels) < 2:
        raise ManifestError(f"{manifest} has {len(labels)} label among its training rows; training needs at least two")
    if not any(row.split == "val" for row in rows):
        raise ManifestError(
            f"{manifest}: too few patients to hold some out for validation; add rows, or mark `val` rows in `split`"
        )
    for row in rows:
        if row.label not in labels:
            raise ManifestError(f"{manifest}, row {row.number}: label {row.label!r} has no training row")


def _check_regions(context: TrainingContext, rows: Sequence[Row]) -> None:
    """Check boxes and masks before training, although they are used after it."""
    for row in rows:
        if row.boxes:
            try:
                info = context.cache.get(row).info
                check_regions(row, info.size0, info.origin)
            except ManifestError as error:
                raise ManifestError(f"{context.manifest}, {error}") from error


def _lesions(context: TrainingContext, rows: Sequence[Row], labels: Sequence[str]) -> dict[int, Row]:
    """Return the rows whose attention is guided, by number; empty without CARE."""
    config = context.config
    if config.care == "none":
        return {}
    rare = rare_labels(rows, labels, config.rare_classes)
    find = None if config.care == "boxes" else box_finder(config.care, config.care_model, config.device)
    try:
        return lesion_rows(rows, rare, context.cache.get, find)
    except ManifestError as error:
        raise ManifestError(f"{context.manifest}, {error}") from error


def claim_together(fabric: Fabric, run: Path, settings: dict[str, Any], *, overwrite: bool) -> str:
    """Claim the run folder on the first rank and broadcast the state, see `_claim`."""
    found = _claim(run, settings, overwrite=overwrite) if fabric.is_global_zero else ""
    return str(fabric.broadcast(found))


def _claim(run: Path, settings: dict[str, Any], *, overwrite: bool) -> str:
    """Claim the run folder; return "trained" for a new run, "resumed", or "skipped" if it is complete."""
    state = decide(run_output(run, settings), overwrite=overwrite).state
    if state is State.COMPLETE:
        return "skipped"
    if state is State.UNFINISHED:
        files.remove_leftovers(run)
        return "resumed"
    files.empty(run)
    files.write_json(run / RUN, settings)  # Written first: it says what the run would be.
    return "trained"


def run_output(run: Path, settings: dict[str, Any]) -> Output[Path]:
    """The run folder as an output: resumed if its settings are equal, complete with its metrics."""

    def inspect() -> Found[Path]:
        try:
            found = json.loads((run / RUN).read_text())
        except (OSError, ValueError):
            return other("exists and is not a training run")
        if not same(found, settings):
            return nothing() if _has_nothing(run, found) else other("contains a run with other settings or data")
        return complete(run) if (run / METRICS).is_file() else unfinished()

    return Output(run, inspect)


def _has_nothing(run: Path, found: Any) -> bool:
    """Return whether a run stopped before the end of its first epoch, so that there is nothing to keep."""
    ours = isinstance(found, dict) and found.get("format") == FORMAT
    return ours and {path.name for path in run.iterdir()} <= {RUN, SPLITS}


def _specification(
    config: TrainConfig,
    labels: Sequence[str],
    training: Dataset,
    validation_predictions: Predictions,
    progress: Progress,
) -> ModelSpec:
    described = []
    for done, bag in enumerate(training.plain_bags()):
        progress(done, len(training.rows), "describing colours")
        described.append(describe_appearance(bag.view, bag.tissue))
    progress(0, 1, "calibrating")
    return ModelSpec(
        labels=tuple(labels),
        mpp=config.mpp,
        stain=config.stain,
        tissue=config.tissue,
        appearance=fit_appearance(described),
        calibration=fit_calibration(validation_predictions.labels, validation_predictions.probabilities),
        prior=config.prior,
    )


def path_in(manifest: Path, row: Row) -> str:
    """Return the path of a row as in a manifest: relative to its folder if inside it, `;` between several."""
    folder = manifest.parent
    inside = (path.relative_to(folder) if path.is_relative_to(folder) else path for path in row.paths)
    return ";".join(path.as_posix() for path in inside)


def splits_table(manifest: Path, rows: Sequence[Row]) -> str:
    """Return a CSV of the rows and their splits."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "patient", "split"])
    writer.writerows([path_in(manifest, row), row.label, row.patient, row.split] for row in rows)
    return table.getvalue()


def _predictions_table(
    manifest: Path, labels: Sequence[str], predicted: Sequence[tuple[Sequence[Row], Predictions]]
) -> str:
    """Rows and their probabilities, before calibration, in one column `p:LABEL` a label."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "patient", "split", *(f"p:{label}" for label in labels)])
    for rows, predictions in predicted:
        for row, shares in zip(rows, predictions.probabilities.tolist(), strict=True):
            writer.writerow([path_in(manifest, row), row.label, row.patient, row.split, *shares])
    return table.getvalue()


def _validation_metrics(
    predictions: Predictions, labels: Sequence[str], rows: Sequence[Row], config: TrainConfig, command: str, name: str
) -> dict[str, Any]:
    return evaluate_predictions(
        predictions.labels,
        predictions.probabilities,
        names=labels,
        groups=[row.patient for row in rows],
        split="val",
        seed=config.seed,
        command=command,
        model={"name": name, "sha256": ""},
    )
