"""The task "classification", see `tasks.base`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_attn.data.manifest import Row
from wsi_attn.errors import UsageError
from wsi_attn.evaluate.report import Origin, Report
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.tasks.base import Evaluation, EvaluationJob, Inference, Task, Training, TrainingJob
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.evaluation import ClassificationEvaluation
from wsi_attn.tasks.classification.inference import SlideInference
from wsi_attn.tasks.classification.slide import Predict, predict_slide
from wsi_attn.tasks.classification.training import ClassificationTraining, pooled
from wsi_attn.tasks.config import InferenceConfig, RunOptions

OUT_OF_FOLD = "out-of-fold"
"""What the pooled metrics of a cross-validation call their split."""


class Classification(Task):
    """A label for each slide."""

    name = "classification"
    measure = "balanced_accuracy"

    def training(self, manifest: Path, rows: Sequence[Row], options: RunOptions, *, held_out: bool = False) -> Training:
        """See `Task.training`."""
        return ClassificationTraining(manifest, rows, held_out=held_out)

    def pooled(self, job: TrainingJob, folders: Sequence[Path], folds: Sequence[Sequence[Row]], name: str) -> Report:
        """See `Task.pooled`."""
        model = {"name": name, "sha256": ""}
        return pooled(folders, folds, Origin(OUT_OF_FOLD, job.config.seed, job.options.command, model))

    predict: Predict = staticmethod(predict_slide)
    """Predicts one input."""

    def evaluation(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> Evaluation:
        """See `Task.evaluation`."""
        return ClassificationEvaluation(checkpoints, job, self.predict)

    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        """See `Task.inference`."""
        if not isinstance(config, PredictConfig):
            raise UsageError(
                f"{checkpoint.name} ({checkpoint.system}) classifies whole slides and does not segment; train a model "
                "with --model joint-segmentation"
            )
        return SlideInference(checkpoint, config, self.predict)


TASK = Classification()
