"""The protocol of a task: what training, inference, evaluation and the commands know of it.

A task is a `Task` object in the registry `TASKS`. Its methods return what does the work of one run: a `Training` of one
model, an `Inference` that answers inputs with it, or an `Evaluation` of its answers against annotations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from wsi_attn.data.manifest import Row
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.sources import open_row
from wsi_attn.errors import UsageError, WsiAttnError, as_failure
from wsi_attn.evaluate.html import Picture
from wsi_attn.evaluate.report import Origin, Report
from wsi_attn.models.base import Network
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.spec import ModelSpec
from wsi_attn.outputs.policy import Output
from wsi_attn.registry import Registry
from wsi_attn.slide import BatchProgress, Progress, Slide, no_progress
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import EvaluateConfig, InferenceConfig, RunOptions, TrainConfig
from wsi_attn.tasks.steps import Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Answer:
    """What a model says of one input.

    Attributes
    ----------
    record
        The answer as JSON values.
    line
        The line for the terminal: tab-separated, the input first.
    file
        Written file that names the answer; None without an output folder.
    warnings
        What was unusual about the input, a sentence each.
    drawable
        Attention and other maps that pictures can be drawn from; None for tasks without.
    """

    record: Mapping[str, object]
    line: str
    file: Path | None = None
    warnings: Sequence[str] = ()
    drawable: SlidePrediction | None = None


class Inference(ABC):
    """Answers inputs with one model and one set of settings; its constructor refuses settings that do not fit.

    Attributes
    ----------
    checkpoint
        The model.
    done
        State of an answered input, "predicted".
    again
        What `--overwrite` does to a complete answer, "predict".
    product
        What is written, "prediction".
    """

    checkpoint: Checkpoint
    done: ClassVar[str]
    again: ClassVar[str]
    product: ClassVar[str]

    @abstractmethod
    def output(self, slide: Slide, folder: Path) -> Output[Answer]:
        """Return the output of an input in a folder, and how an earlier answer is read.

        Raises
        ------
        UsageError : the input has no such output.
        """

    @abstractmethod
    def answer(
        self, slide: Slide, folder: Path | None, *, overwrite: bool = False, progress: Progress = no_progress
    ) -> Answer:
        """Answer one input.

        Parameters
        ----------
        folder
            Folder for the files of the answer; None writes none.
        overwrite
            Discard an unfinished answer instead of resuming it.

        Raises
        ------
        WsiAttnError : the input cannot be answered.
        """


@dataclass(frozen=True)
class TrainingJob:
    """What the models of a run share.

    Attributes
    ----------
    network
        Fields of the network's configuration that differ from their defaults.
    log
        Called with the losses of every finished epoch.
    say
        Called with warnings about the training set.
    """

    manifest: Path
    config: TrainConfig
    network: Mapping[str, object]
    options: RunOptions
    fabric: Fabric
    cache: SlideCache
    progress: Progress
    log: Callable[[dict[str, float]], None]
    say: Callable[[str], None]


class Losses(nn.Module, ABC):
    """Loss terms of a batch; its buffers are on the device of the network.

    Attributes
    ----------
    early
        Terms that count in the first epochs of `warm_up_epochs`.
    """

    early: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, network: Network, step: Step) -> dict[str, Tensor]:
        """Return the named loss terms that are summed."""

    def __call__(self, network: Network, step: Step) -> dict[str, Tensor]:
        """`forward`, with its type."""
        terms: dict[str, Tensor] = super().__call__(network, step)
        return terms


@dataclass(frozen=True)
class Trained:
    """What a trained model is stored with.

    Attributes
    ----------
    spec
        Inputs and outputs.
    report
        Metrics of the validation set.
    about
        The end of "A SYSTEM model that ..." in the card.
    metrics
        Metrics of the report that the card shows.
    labels
        Labels whose images the card counts.
    predictions
        Table of predictions, the header first; empty for tasks without.
    inputs
        What the model reads, for the card; by default pixels at the resolution of the specification.
    """

    spec: ModelSpec
    report: Report
    about: str
    metrics: Sequence[str]
    labels: Sequence[str] = ()
    predictions: Sequence[Sequence[object]] = ()
    inputs: str = ""


class Fitting(ABC):
    """Batches, losses and scores of a network that is being trained.

    Attributes
    ----------
    losses
        Loss terms of the batches.
    settled
        First epoch with all loss terms: weights of earlier ones are kept only until then.
    """

    losses: Losses
    settled: int = 0

    def repeat(self, copies: int) -> None:  # noqa: B027 - most tasks draw new augmentations
        """Show each training image in this many augmented copies, one an epoch in turn, and name them in
        `BagBatch.images`.
        """

    @abstractmethod
    def steps(self) -> int:
        """Batches of one training epoch on each rank."""

    @abstractmethod
    def batches(self, epoch: int, clock: EpochClock) -> Iterator[Step]:
        """Batches of one training epoch."""

    @abstractmethod
    def validate(self, network: Network) -> dict[str, float]:
        """Return the columns of the log that begin with `val_`; `val_loss` decides which weights are kept."""

    @abstractmethod
    def results(self, network: Network, name: str) -> Trained | None:
        """Return what the trained network is stored with; None on all ranks except the first, which call it too."""


class Training(ABC):
    """The training of one model on rows with splits.

    Attributes
    ----------
    settings
        Further settings that must be equal for a run to resume.
    network
        Fields of the network's configuration that follow from the rows, such as the number of classes.
    """

    settings: Mapping[str, object]
    network: Mapping[str, object]

    @abstractmethod
    def fitting(self, job: TrainingJob, network: Network) -> Fitting:
        """Open the rows for an initial network.

        Raises
        ------
        ManifestError : annotations of a row cannot be used.
        """


@dataclass(frozen=True)
class EvaluationJob:
    """What is evaluated, and how.

    Attributes
    ----------
    manifest
        CSV of labelled rows.
    config
        Which of them, the seed, and an operating point.
    command
        The command line, for the report.
    mc_dropout
        Number of dropout passes for further uncertainty terms.
    allow_out_of_distribution
        Also answer images whose colours lie outside the training distribution.
    workers
        Number of reader threads; `thread_limit` by default.
    """

    manifest: Path
    config: EvaluateConfig
    command: str = ""
    mc_dropout: int = 0
    allow_out_of_distribution: bool = False
    workers: int | None = None

    def origin(self, model: Mapping[str, str]) -> Origin:
        """Return what the report of a model is about."""
        return Origin(self.config.split, self.config.seed, self.command, model)


class Evaluation(ABC):
    """Compares the answers of a model with the annotations of rows; its constructor refuses jobs that do not fit.

    Attributes
    ----------
    done
        What has been done with a row, "predicted".
    """

    done: ClassVar[str]

    def check(self, rows: Sequence[Row]) -> None:  # noqa: B027 - tasks without labels check nothing
        """Check the labels of the rows.

        Raises
        ------
        ManifestError : a row cannot be compared with the answers of the model.
        """

    @abstractmethod
    def add(self, row: Row, slide: Slide, progress: Progress) -> None:
        """Answer one row and keep what the report needs.

        Raises
        ------
        WsiAttnError : the row cannot be answered; it is left out of the report.
        """

    @abstractmethod
    def report(self, failures: Sequence[WsiAttnError]) -> Report:
        """Return the report on all rows that were added, with the errors of the others under `unanswered`."""

    @abstractmethod
    def table(self) -> Iterator[Sequence[object]]:
        """Yield the cells of a header, and of one line per row that was added."""

    def pictures(self) -> Sequence[Picture]:
        """Return pictures for the page of the report."""
        return ()


class Task(ABC):
    """What models are for.

    Attributes
    ----------
    name
        Name in the registry and in the specification of a checkpoint.
    measure
        The metric that sums up a training run, "balanced_accuracy".
    need_label
        Whether every row of a manifest must have a label.
    """

    name: ClassVar[str]
    measure: ClassVar[str]
    need_label: ClassVar[bool] = True

    @abstractmethod
    def training(self, manifest: Path, rows: Sequence[Row], options: RunOptions, *, held_out: bool = False) -> Training:
        """Check rows with splits, and return the training of one model on them.

        Parameters
        ----------
        held_out
            The rows of split `test` are a fold that the model predicts after training; see `pooled`.

        Raises
        ------
        ManifestError : the rows cannot be trained on.
        """

    def pooled(self, job: TrainingJob, folders: Sequence[Path], folds: Sequence[Sequence[Row]], name: str) -> Report:
        """Return the metrics of all held-out rows of a cross-validation.

        Parameters
        ----------
        folders, folds
            Run folder and rows of each fold; the tables of predictions are read from the folders.

        Raises
        ------
        UsageError : the task has no cross-validation.
        """
        raise UsageError(f"--model {job.config.system} has no --folds; remove it")

    @abstractmethod
    def evaluation(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> Evaluation:
        """Return what evaluates one model, or those of several folds.

        Raises
        ------
        UsageError : the models do not support the job.
        CheckpointError : the folds have different labels.
        """

    @abstractmethod
    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        """Return what answers inputs.

        Raises
        ------
        UsageError : the settings are those of another task, or the model does not support them.
        """


TASKS: Registry[Task] = Registry(
    "task",
    "wsi_attn.tasks",
    {
        "classification": "wsi_attn.tasks.classification.task:TASK",
        "segmentation": "wsi_attn.tasks.segmentation.task:TASK",
        "bag-classification": "wsi_attn.tasks.bags.task:TASK",
    },
    lambda member: isinstance(member, Task),
)
"""All tasks by name."""


def inference_of(checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
    """Return what answers inputs with a model; see `Task.inference`."""
    return TASKS.get(checkpoint.spec.task).inference(checkpoint, config)


def add_rows(
    evaluation: Evaluation,
    rows: Sequence[Row],
    opened: Callable[[Row], AbstractContextManager[Slide]] = open_row,
    progress: BatchProgress = no_progress,
) -> list[WsiAttnError]:
    """Add every row to an evaluation; return the errors of those that failed.

    Parameters
    ----------
    opened
        Opens the slide of a row.
    """
    failures: list[WsiAttnError] = []
    for number, row in enumerate(rows, 1):
        with progress.item(number, len(rows), row.path.name) as item:
            try:
                with opened(row) as slide:
                    evaluation.add(row, slide, item)
            except Exception as error:
                failures.append(as_failure(row.path, error))
                item.state = "failed"
    return failures


def validation_report(
    evaluation: Evaluation, rows: Sequence[Row], cache: SlideCache, progress: BatchProgress = no_progress
) -> Report:
    """Return the report on the validation rows of a training run, whose slides its cache keeps open.

    Raises
    ------
    WsiAttnError : no row could be answered; the error of the first.
    """
    failures = add_rows(evaluation, rows, lambda row: nullcontext(cache.get(row)), progress)
    if len(failures) == len(rows):
        raise failures[0]
    return evaluation.report(failures)
