"""Tasks in which a whole row of a manifest is one example, one answer and one term of the metric.

A `RowTask` says what its network reads, what it should answer, and how answers are scored. Batches, ranks, devices,
reports and files follow. It suits small images and stored features; a task that reads large slides in parts, or needs
the options of resolution, tissue and augmentation, implements `tasks.base.Task`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn import provenance
from wsi_attn.data.manifest import Row, path_in
from wsi_attn.errors import ManifestError, UsageError, WsiAttnError
from wsi_attn.evaluate.intervals import percentile_interval, resample_groups
from wsi_attn.evaluate.report import Report, resampling_section
from wsi_attn.json_types import Json, JsonObject
from wsi_attn.models.base import Network
from wsi_attn.models.checkpoint import Checkpoint, model_record
from wsi_attn.models.spec import ModelSpec
from wsi_attn.options import changed_options
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, complete, other
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.tasks.base import (
    Answer,
    Evaluation,
    EvaluationJob,
    Fitting,
    Inference,
    Losses,
    Task,
    Trained,
    Training,
    TrainingJob,
    validation_report,
)
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import EvaluateConfig, InferenceConfig, RunOptions
from wsi_attn.tasks.steps import Step, dealt, in_parts, prepared_ahead

Apply: TypeAlias = Callable[[Tensor], Tensor]
"""A trained network, from an input to its output as float32; both are in main memory."""

Answered: TypeAlias = tuple[Row, JsonObject]
"""A row with its answer."""

UNUSED = frozenset({"mpp", "tissue", "prior", "scale", "colour", "class_weights", "warm_up_epochs"})
"""Training options that whole rows do not use."""


class RowTask(Task):
    """A task on whole rows; the name of the task is also that of its files, `STEM.NAME.json`.

    Attributes
    ----------
    about
        The end of "A SYSTEM model that ..." in the card.
    """

    about: ClassVar[str]
    need_label = False

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """Return the names of the classes; if there are any, the network's configuration has a field `classes`."""
        return ()

    @abstractmethod
    def given(self, slide: Slide) -> Tensor:
        """Return the input of the network."""

    @abstractmethod
    def target(self, row: Row, labels: Sequence[str]) -> Tensor:
        """Return what the loss compares the output of the network with.

        Raises
        ------
        ManifestError : the row does not say it; see `number_in`.
        """

    @abstractmethod
    def loss(self, found: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the loss of a batch, a scalar, from the output of the network and the target of each row."""

    @abstractmethod
    def answer(self, network: Apply, slide: Slide, labels: Sequence[str]) -> JsonObject:
        """Return the answer to one input."""

    @abstractmethod
    def score(self, answers: Sequence[Answered], weights: NDArray[np.float64]) -> float:
        """Return the metric `measure` of rows that count `weights` times, float64 (n,); NaN where it is undefined."""

    def write(self, answer: JsonObject, file: Path) -> None:
        """Write what lies beside the record `file`, which is written afterwards."""

    def training(self, manifest: Path, rows: Sequence[Row], options: RunOptions, *, held_out: bool = False) -> Training:
        """See `Task.training`."""
        for split, aim in (("train", "train"), ("val", "validate")):
            if not any(row.split == split for row in rows):
                raise ManifestError(f"{manifest} has no rows to {aim} on")
        return RowTraining(self, [row for row in rows if row.split in ("train", "val")])

    def evaluation(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> Evaluation:
        """See `Task.evaluation`."""
        first = checkpoints[0]
        for given, option in ((job.config.positive is not None, "--sensitivity"), (job.mc_dropout, "--mc-dropout")):
            if given:
                raise UsageError(f"{first.name} is a model of the task {self.name}, which has no {option}; remove it")
        return RowEvaluation(self, first.network, first.spec, job, model_record([first]))

    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        """See `Task.inference`; there are no settings, so that every command that answers can be used."""
        for field in changed_options(config):
            raise UsageError(
                f"{checkpoint.name} is a model of the task {self.name}, which has no {field.flag}; remove it"
            )
        return RowInference(self, checkpoint)


def number_in(row: Row, column: str) -> float:
    """Return the number in a further column of a manifest.

    Raises
    ------
    ManifestError : there is none.
    """
    try:
        return float(row.cells.get(column, ""))
    except ValueError:
        raise ManifestError(
            f"row {row.number}: {row.path} needs a number in the column {column}, not {row.cells.get(column, '')!r}"
        ) from None


def applied(network: Network) -> Apply:
    """Return the network for inputs in main memory, in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device

    def apply(given: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = network(given.to(device))
        return found.float().cpu()

    return apply


class RowStep(Step):
    """Rows with their inputs and targets."""

    def __init__(self, rows: Sequence[Row], given: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        super().__init__(tuple(rows))
        self.given, self.targets = given, targets


class RowTraining(Training):
    """See `Training`; `rows` are those of the splits train and val."""

    def __init__(self, task: RowTask, rows: Sequence[Row]) -> None:
        self.task, self.rows, self.labels = task, rows, task.labels(rows)
        for row in rows:
            task.target(row, self.labels)
        self.settings: Mapping[str, object] = {"labels": list(self.labels)} if self.labels else {}
        self.network: Mapping[str, object] = {"classes": len(self.labels)} if self.labels else {}

    def fitting(self, job: TrainingJob, network: Network) -> Fitting:
        """See `Training.fitting`.

        Raises
        ------
        UsageError : an option of `UNUSED`.
        """
        job.config.refuse(lambda field: field.name in UNUSED)
        return RowFitting(self, job)


class RowLosses(Losses):
    """The loss of the task."""

    def __init__(self, task: RowTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, network: Network, step: Step) -> dict[str, Tensor]:
        """Return the loss of one batch."""
        assert isinstance(step, RowStep)  # noqa: S101 - of this task
        device = next(network.parameters()).device
        found = [network(given.to(device)) for given in step.given]
        return {"task": self.task.loss(found, [target.to(device) for target in step.targets])}


class RowFitting(Fitting):
    """Whole rows in batches; every rank validates on all rows."""

    def __init__(self, training: RowTraining, job: TrainingJob) -> None:
        self.task, self.labels, self.job = training.task, training.labels, job
        self.losses = RowLosses(training.task)
        self.parts = {split: [row for row in training.rows if row.split == split] for split in ("train", "val")}

    def steps(self) -> int:
        """See `Fitting.steps`."""
        return len(self._groups(np.random.default_rng(0)))

    def batches(self, epoch: int, clock: EpochClock) -> Iterator[Step]:
        """See `Fitting.batches`."""
        groups = self._groups(np.random.default_rng([self.job.config.seed, epoch]))
        return prepared_ahead(
            lambda step: self._step(groups[step]), len(groups), self.job.options.resources.threads(), clock
        )

    def validate(self, network: Network) -> dict[str, float]:
        """See `Fitting.validate`; the mean over the batches, by their rows."""
        network.eval()
        rows, total = self.parts["val"], 0.0
        for group in in_parts(rows, self.job.config.batch_size):
            with torch.inference_mode(), self.job.fabric.autocast():
                total += self.losses(network, self._step(group))["task"].item() * len(group)
        return {"val_loss": total / len(rows)}

    def results(self, network: Network, name: str) -> Trained | None:
        """See `Fitting.results`."""
        if not self.job.fabric.is_global_zero:
            return None
        config, task = self.job.config, self.task
        spec = ModelSpec(self.labels, None, config.stain, "none", task=task.name)
        job = EvaluationJob(self.job.manifest, EvaluateConfig("val", config.seed), self.job.options.command)
        evaluation = RowEvaluation(task, network, spec, job, {"name": name, "sha256": ""})
        report = validation_report(evaluation, self.parts["val"], self.job.cache)
        return Trained(spec, report, task.about, (task.measure,))

    def _groups(self, generator: np.random.Generator) -> list[Sequence[Row]]:
        rows, ranks = self.parts["train"], self.job.fabric.world_size
        groups = in_parts([rows[index] for index in generator.permutation(len(rows))], self.job.config.batch_size)
        return dealt(groups, self.job.fabric.global_rank, ranks)

    def _step(self, rows: Sequence[Row]) -> RowStep:
        given = [self.task.given(self.job.cache.get(row)) for row in rows]
        return RowStep(rows, given, [self.task.target(row, self.labels) for row in rows])


class RowEvaluation(Evaluation):
    """Answers of one model with the metric of the task."""

    done = "answered"

    def __init__(
        self, task: RowTask, network: Network, spec: ModelSpec, job: EvaluationJob, model: Mapping[str, str]
    ) -> None:
        self.task, self.network, self.spec, self.job, self.model = task, applied(network), spec, job, model
        self.answers: list[Answered] = []

    def check(self, rows: Sequence[Row]) -> None:
        """See `Evaluation.check`."""
        for row in rows:
            self.task.target(row, self.spec.labels)

    def add(self, row: Row, slide: Slide, progress: Progress) -> None:
        """See `Evaluation.add`."""
        progress(0, 1, "answering")
        self.answers.append((row, self.task.answer(self.network, slide, self.spec.labels)))

    def report(self, failures: Sequence[WsiAttnError]) -> Report:
        """See `Evaluation.report`."""
        resamples = resample_groups([row.patient for row, _ in self.answers], self.job.config.seed)
        resampled = [self.task.score(self.answers, counts) for counts in resamples.weights]
        value = self.task.score(self.answers, np.ones(len(self.answers)))
        metrics = {self.task.measure: percentile_interval(value, np.array(resampled), resamples.groups)}
        sections = {
            "intervals": resampling_section(metrics),
            "software": provenance.software(),
            "unanswered": [str(error) for error in failures],
        }
        origin = self.job.origin(self.model)
        return Report(len(self.answers), resamples.groups, self.spec.labels, origin, metrics, sections)

    def table(self) -> Iterator[Sequence[object]]:
        """Yield path, patient and the answer of every row."""
        yield ["path", "patient", *self.answers[0][1]]
        for row, answer in self.answers:
            yield [path_in(self.job.manifest, row), row.patient, *answer.values()]


def answer_of(record: JsonObject, answer: Mapping[str, Json], file: Path | None) -> Answer:
    """Return an answer with its record, `{slide, fingerprint, model, NAME: answer}` for the task NAME.

    The line has the slide, the numbers and texts of the answer, and the file.
    """
    said = [
        f"{value:.4g}" if isinstance(value, float) else str(value)
        for value in answer.values()
        if isinstance(value, str | int | float)
    ]
    return Answer(record, "\t".join([str(record["slide"]), *said, str(file or "-")]), file)


class RowInference(Inference):
    """Answers inputs with one model."""

    done, again, product = "answered", "answer", "answer"

    def __init__(self, task: RowTask, checkpoint: Checkpoint) -> None:
        self.task, self.checkpoint, self.network = task, checkpoint, applied(checkpoint.network)

    def output(self, slide: Slide, folder: Path) -> Output[Answer]:
        """See `Inference.output`."""
        file, wanted = self._file(slide, folder), self._about(slide)

        def inspect() -> Found[Answer]:
            try:
                found = json.loads(file.read_text())
                answer = found[self.task.name]
                there = {name: found.get(name) for name in ("fingerprint", "model")}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return other(f"exists and is not an answer of the task {self.task.name}")
            if there != {name: wanted[name] for name in there}:
                return other("belongs to another slide or model")
            return complete(answer_of(found, answer, file))

        return Output(file, inspect)

    def answer(
        self, slide: Slide, folder: Path | None, *, overwrite: bool = False, progress: Progress = no_progress
    ) -> Answer:
        """See `Inference.answer`."""
        progress(0, 1, "answering")
        answer = self.task.answer(self.network, slide, self.checkpoint.spec.labels)
        record: JsonObject = {**self._about(slide), self.task.name: answer}
        file = None if folder is None else self._file(slide, folder)
        if file is not None:
            self.task.write(answer, file)
            files.write_json(file, record)  # last: it says that the answer is complete
        return answer_of(record, answer, file)

    def _file(self, slide: Slide, folder: Path) -> Path:
        return folder / f"{slide.info.name}.{self.task.name}.json"

    def _about(self, slide: Slide) -> JsonObject:
        return {
            "slide": str(slide.info.path),
            "fingerprint": slide.info.fingerprint,
            "model": model_record([self.checkpoint]),
        }
