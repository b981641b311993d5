"""Training of classification: checks of the rows, class weights, losses, predictions of a split, calibration."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn.annotations.regions import check_regions
from wsi_attn.data.appearance import describe_appearance, fit_appearance
from wsi_attn.data.augment import SYMMETRIES, Symmetry
from wsi_attn.data.manifest import Row, path_in
from wsi_attn.errors import ManifestError, UsageError
from wsi_attn.evaluate.report import Origin, Report, evaluate_predictions
from wsi_attn.models.base import Network, SlideModel, SlideOutput
from wsi_attn.models.calibration import Calibration, fit_calibration, log_losses, refined
from wsi_attn.models.head_start import solve_heads
from wsi_attn.models.spec import ModelSpec
from wsi_attn.models.systems import trained_backbones
from wsi_attn.slide import Progress, no_progress
from wsi_attn.tasks.base import Fitting, Losses, Trained, Training, TrainingJob
from wsi_attn.tasks.classification.care import TERM as CARE_TERM
from wsi_attn.tasks.classification.care import care_terms
from wsi_attn.tasks.classification.class_losses import effective_number_weights, focal_loss
from wsi_attn.tasks.classification.dataset import Dataset, GuidedStep
from wsi_attn.tasks.classification.lesions import lesion_rows, rare_labels, shuffled_lesions
from wsi_attn.tasks.classification.mc_dropout import dropout_set
from wsi_attn.tasks.classification.turns import averaged_logits
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import TrainConfig
from wsi_attn.tasks.ranks import gathered
from wsi_attn.tasks.segmentation.boxes import box_finder
from wsi_attn.tasks.steps import LabelledStep, Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "ece")
"""Metrics of the card."""

PREDICTIONS = "predictions.csv"
"""Table of predictions in a run folder."""


class ClassificationTraining(Training):
    """Rows with labels.

    Attributes
    ----------
    held_out
        Also predict the rows of split `test`, in the table of predictions.

    Raises
    ------
    ManifestError : see `check_rows`.
    """

    settings: Mapping[str, object] = {}

    def __init__(self, manifest: Path, rows: Sequence[Row], *, held_out: bool) -> None:
        self.rows, self.held_out = rows, held_out
        self.labels = sorted({row.label for row in rows if row.split == "train"})
        check_rows(manifest, rows, self.labels)
        self.network = {"classes": len(self.labels)}

    def fitting(self, job: TrainingJob, network: Network) -> Fitting:
        """See `Training.fitting`."""
        assert isinstance(network, SlideModel)  # noqa: S101 - of this task
        return ClassificationFitting(self, job, network)


class Examples(Protocol):
    """Rows of one split as batches; `label_index` has the place of each label in the logits."""

    rows: list[Row]
    label_index: dict[str, int]
    config: TrainConfig

    def steps(self) -> int:
        """Batches of one training epoch on each rank."""
        ...

    def batches(
        self, epoch: int, *, training: bool, clock: EpochClock | None = None, symmetry: Symmetry = SYMMETRIES[0]
    ) -> Iterator[LabelledStep]:
        """Batches of one epoch; see `Dataset.batches`."""
        ...


E = TypeVar("E", bound=Examples)


class LabelFitting(Fitting, Generic[E]):
    """Labels of rows: validation, predictions, metrics and calibration. `training`, `validation` and `held` are the
    examples of each split, `balance` the weight of each class, float (C,).
    """

    training: E
    validation: E
    held: E | None
    balance: Tensor

    def __init__(self, training: ClassificationTraining, job: TrainingJob) -> None:
        self.job, self.labels, self.config = job, training.labels, job.config

    def balanced(self) -> Tensor:
        """Set and return `balance`, as `--loss` and `--class-weights` have it."""
        kind = "effective" if self.config.loss == "class-balanced" else self.config.class_weights
        self.balance = class_weights(self.training, len(self.labels), kind, self.config.beta)
        return self.balance

    @abstractmethod
    def spec(self, calibration: Calibration) -> ModelSpec:
        """Return inputs and outputs of the trained model."""

    def steps(self) -> int:
        """See `Fitting.steps`."""
        return self.training.steps()

    def validate(self, network: Network) -> dict[str, float]:
        """See `Fitting.validate`."""
        return predict_rows(self.job.fabric, network, self.validation).scores(self.balance.double().numpy())

    def batches(self, epoch: int, clock: EpochClock) -> Iterator[Step]:
        """See `Fitting.batches`."""
        return self.training.batches(epoch, training=True, clock=clock)

    def results(self, network: Network, name: str) -> Trained | None:
        """See `Fitting.results`."""
        fabric, progress, config = self.job.fabric, self.job.progress, self.config
        predictions = predict_rows(fabric, network, self.validation, progress)
        predicted = [(self.validation.rows, predictions)]
        if self.held:
            predicted.append((self.held.rows, predict_rows(fabric, network, self.held, progress)))
        if not fabric.is_global_zero:
            return None
        progress(0, 1, "computing metrics")
        report = evaluate_predictions(
            predictions.labels,
            predictions.probabilities,
            self.labels,
            [row.patient for row in self.validation.rows],
            Origin("val", config.seed, self.job.options.command, {"name": name, "sha256": ""}),
        )
        progress(0, 1, "calibrating")
        spec = self.spec(fit_calibration(predictions.labels, predictions.probabilities))
        about = f"predicts one of: {', '.join(self.labels)}"
        table = [*_predictions_table(self.job.manifest, self.labels, predicted)]
        return Trained(spec, report, about, METRICS, self.labels, table)


class ClassificationFitting(LabelFitting[Dataset]):
    """Bags of images in batches; see `Fitting`."""

    def __init__(self, training: ClassificationTraining, job: TrainingJob, network: SlideModel) -> None:
        super().__init__(training, job)
        if job.config.tta and job.config.no_flip:
            raise UsageError("--tta turns images, which --no-flip keeps as they are; remove one of them")
        if job.config.tta and not network.any_orientation:
            raise UsageError(f"--tta turns images, but --model {job.config.system} keeps their orientation; remove it")

        def part_of(split: str) -> Dataset:
            chosen = [row for row in training.rows if row.split == split]
            rank, ranks = job.fabric.global_rank, job.fabric.world_size
            return Dataset(
                chosen, self.labels, network, job.config, job.cache, job.options.resources, rank=rank, ranks=ranks
            )

        self.training, self.validation = part_of("train"), part_of("val")
        self.held = part_of("test") if training.held_out else None
        _check_regions(job, [*self.training.rows, *self.validation.rows])
        self.training.lesions = _lesions(job, self.training.rows, self.labels)
        balance = self.balanced()
        for warning in network.prepare(self.training.as_they_are(balance, job.progress)):
            job.say(f"warning: {warning}")
        if self.config.solves_heads(trained_backbones(network, job.options.weights)):
            job.progress(0, 1, "solving the heads")
            solve_heads(network, self.training.as_they_are(balance, job.progress))
        self.losses = ClassificationLosses(balance, self.config)
        self.settled = self.config.first_care_epoch() if self.training.lesions else 0

    def repeat(self, copies: int) -> None:
        """See `Fitting.repeat`."""
        self.training.copies = copies

    def spec(self, calibration: Calibration) -> ModelSpec:
        """See `LabelFitting.spec`; describes the colours of the training images."""
        config, described = self.config, []
        for done, bag in enumerate(self.training.plain_bags()):
            self.job.progress(done, len(self.training.rows), "describing colours")
            described.append(describe_appearance(bag.view, bag.tissue))
        return ModelSpec(
            labels=tuple(self.labels),
            mpp=config.mpp,
            stain=config.stain,
            tissue=config.tissue,
            appearance=fit_appearance(described),
            calibration=calibration,
            prior=config.prior,
            turns=config.tta,
        )


class LabelLosses(Losses):
    """Loss terms with class weights, among which `--loss` replaces the cross-entropy.

    Parameters
    ----------
    class_weights
        float (C,).
    """

    def __init__(self, class_weights: Tensor, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)

    def with_chosen_loss(self, terms: dict[str, Tensor], logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of a network with the loss of `--loss` as "fused"; logits (B, C), labels int64 (B,)."""
        if self.config.loss != "focal":
            return terms
        return {**terms, "fused": focal_loss(logits, labels, self.class_weights, self.config.gamma)}


class ClassificationLosses(LabelLosses):
    """The loss terms of the network, with those of `--loss` and CARE in their places."""

    early = frozenset({"global", "entropy", CARE_TERM})
    """Those that crops have no part in."""

    def forward(self, network: Network, step: Step) -> dict[str, Tensor]:
        """Return the loss terms of one batch; stores the number of patches read in `step`."""
        assert isinstance(step, GuidedStep)  # noqa: S101 - of this task
        assert isinstance(network, SlideModel)  # noqa: S101
        output = network(step.batch)
        step.patches = int(output.patch_mask.sum())
        labels, config = step.labels.to(output.logits.device), self.config
        terms = self.with_chosen_loss(network.losses(output, labels, self.class_weights), output.logits, labels)
        if step.lesions is not None:
            terms = care_terms(
                terms,
                explained(network, output),
                labels,
                step.lesions,
                weight=config.care_weight,
                tau=config.care_tau,
                reduction=config.care_reduction,
                second_order=config.care_second_order,
            )
        return terms


def explained(network: SlideModel, output: SlideOutput) -> SlideOutput:
    """Return an output whose logits, if CARE explains them by the features, are computed without dropout, which would
    zero channels of the explanation at random.
    """
    if output.features is None or output.pooled is None:
        return output
    with dropout_set(network, active=False):
        return replace(output, logits=network.decide(output.pooled))


@dataclass(frozen=True)
class Predictions:
    """Predictions of a split in row order: int64 labels (n,), float64 logits (n, C)."""

    labels: NDArray[np.int64]
    logits: NDArray[np.float64]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """float64 (n, C), softmax of the logits."""
        return np.exp(self._log_probabilities())

    def loss(self, class_weights: NDArray[np.float64]) -> float:
        """Cross-entropy with class weights (C,), at the best temperature; see `refined`."""
        weights = class_weights[self.labels]
        losses = log_losses(self.labels, refined(self.labels, self.probabilities))
        return float((weights * losses).sum() / weights.sum())

    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that occur."""
        called = self.logits.argmax(axis=1)
        return float(np.mean([(called[self.labels == c] == c).mean() for c in np.unique(self.labels)]))

    def scores(self, class_weights: NDArray[np.float64]) -> dict[str, float]:
        """Return the validation metrics of an epoch; see `Validate`."""
        return {"val_loss": self.loss(class_weights), "val_balanced_accuracy": self.balanced_accuracy()}

    def _log_probabilities(self) -> NDArray[np.float64]:
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@torch.inference_mode()
def predict_rows(fabric: Fabric, network: Network, dataset: Examples, progress: Progress = no_progress) -> Predictions:
    """Predict every row without noise or dropout, as it is or with `--tta` averaged over its turns; each rank predicts
    its share.
    """
    network.eval()
    turns = SYMMETRIES if dataset.config.tta else SYMMETRIES[:1]
    rows = -(-len(dataset.rows) // fabric.world_size) * len(turns)
    progress(0, rows, "predicting")
    labels: dict[int, int] = {}
    seen: dict[int, list[Tensor]] = {}
    done = 0
    for symmetry in turns:
        for item in dataset.batches(0, training=False, symmetry=symmetry):
            with fabric.autocast():
                logits = network(item.batch).logits.double().cpu()
            for row, label, values in zip(item.rows, item.labels.tolist(), logits, strict=True):
                labels[row.number] = label
                seen.setdefault(row.number, []).append(values[None])
            done += len(item.rows)
            progress(done, max(rows, done), "predicting")
    mine = [(number, labels[number], averaged_logits(each)[0].numpy()) for number, each in seen.items()]
    found = {number: (label, values) for number, label, values in gathered(fabric, mine)}
    predictions = [found[row.number] for row in dataset.rows]
    return Predictions(
        np.array([label for label, _ in predictions], np.int64), np.stack([values for _, values in predictions])
    )


def class_weights(dataset: Examples, classes: int, kind: str = "root", beta: float = 0.0) -> torch.Tensor:
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


def pooled(folders: Sequence[Path], folds: Sequence[Sequence[Row]], origin: Origin) -> Report:
    """Return the metrics of all held-out rows, and of each fold under `per_fold`."""
    labels = sorted({row.label for rows in folds for row in rows})
    held = [[row for row in rows if row.split == "test"] for rows in folds]
    predictions = [_held_out_predictions(folder, labels) for folder in folders]

    def report_of(rows: Sequence[Row], probabilities: Sequence[list[float]]) -> Report:
        true = [labels.index(row.label) for row in rows]
        return evaluate_predictions(true, np.array(probabilities), labels, [row.patient for row in rows], origin)

    together = report_of([row for rows in held for row in rows], [shares for part in predictions for shares in part])
    alone = [report_of(rows, shares).record() for rows, shares in zip(held, predictions, strict=True)]
    kept = ("n", "groups", "accuracy", "balanced_accuracy", "auroc")
    return together.with_sections(per_fold=[{key: metrics[key] for key in kept} for metrics in alone])


def _held_out_predictions(folder: Path, labels: Sequence[str]) -> list[list[float]]:
    """Return the probabilities of a fold's held-out rows, in manifest order."""
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        rows = [record for record in csv.DictReader(file) if record["split"] == "test"]
    return [[float(record[f"p:{label}"]) for label in labels] for record in rows]


def _check_regions(job: TrainingJob, rows: Sequence[Row]) -> None:
    """Check boxes and masks before training, although they are used after it."""
    for row in rows:
        if row.boxes:
            try:
                info = job.cache.get(row).info
                check_regions(row, info.size0, info.origin)
            except ManifestError as error:
                raise ManifestError(f"{job.manifest}, {error}") from error


def _lesions(job: TrainingJob, rows: Sequence[Row], labels: Sequence[str]) -> dict[int, Row]:
    """Return the rows whose attention is guided, by number; empty without CARE."""
    config = job.config
    if config.care == "none":
        return {}
    rare = rare_labels(rows, labels, config.rare_classes)
    find = None if config.care == "boxes" else box_finder(config.care, config.care_model, config.device)
    try:
        found = lesion_rows(rows, rare, job.cache.get, find)
    except ManifestError as error:
        raise ManifestError(f"{job.manifest}, {error}") from error
    return shuffled_lesions(found, config.seed) if config.care_boxes == "shuffled" else found


def _predictions_table(
    manifest: Path, labels: Sequence[str], predicted: Sequence[tuple[Sequence[Row], Predictions]]
) -> Iterator[Sequence[object]]:
    """Rows and their probabilities, before calibration, in one column `p:LABEL` a label."""
    yield ["path", "label", "patient", "split", *(f"p:{label}" for label in labels)]
    for rows, predictions in predicted:
        for row, shares in zip(rows, predictions.probabilities.tolist(), strict=True):
            yield [path_in(manifest, row), row.label, row.patient, row.split, *shares]
