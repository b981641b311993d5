"""The protocol of a task: what training, inference, evaluation and the commands know of it.

A task is a `Task` object in the registry `TASKS`. Its methods return what does the work of one run: an `Inference` that
answers inputs with one model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.outputs.policy import Output
from wsi_attn.registry import Registry
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.tasks.config import InferenceConfig


class Answer(ABC):
    """What a model says of one input.

    Attributes
    ----------
    file
        Written file that names the answer; None without an output folder.
    drawable
        Attention and other maps that pictures can be drawn from; None for tasks without.
    """

    file: Path | None = None
    drawable: SlidePrediction | None = None

    @abstractmethod
    def record(self) -> Mapping[str, object]:
        """Return the answer as JSON values."""

    @abstractmethod
    def line(self) -> str:
        """Return the line for the terminal: tab-separated, the input first."""

    def warnings(self) -> Sequence[str]:
        """Return what was unusual about the input, a sentence each."""
        return ()


class Inference(ABC):
    """Answers inputs with one model and one set of settings; its constructor refuses settings that do not fit.

    Attributes
    ----------
    done
        State of an answered input, "predicted".
    again
        What `--overwrite` does to a complete answer, "predict".
    product
        What is written, "prediction".
    """

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


class Task(ABC):
    """What models are for.

    Attributes
    ----------
    name
        Name in the registry and in the specification of a checkpoint.
    """

    name: ClassVar[str]

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
    },
    lambda member: isinstance(member, Task),
)
"""All tasks by name."""


def inference_of(checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
    """Return what answers inputs with a model; see `Task.inference`."""
    return TASKS.get(checkpoint.spec.task).inference(checkpoint, config)
