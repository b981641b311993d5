"""The task "bag-classification", see `tasks.base`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_attn.data.manifest import Row
from wsi_attn.evaluate.html import Picture
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.configs import BAGS
from wsi_attn.tasks.bags.predict import predict_bag
from wsi_attn.tasks.bags.training import BagTraining
from wsi_attn.tasks.base import Evaluation, EvaluationJob, Training
from wsi_attn.tasks.classification.evaluation import ClassificationEvaluation
from wsi_attn.tasks.classification.task import Classification
from wsi_attn.tasks.config import RunOptions


class BagEvaluation(ClassificationEvaluation):
    """Labels of bags, which have no pictures."""

    def pictures(self) -> Sequence[Picture]:
        """See `Evaluation.pictures`."""
        return ()


class BagClassification(Classification):
    """A label for the stored features of a slide or patient."""

    name = BAGS
    predict = staticmethod(predict_bag)

    def training(self, manifest: Path, rows: Sequence[Row], options: RunOptions, *, held_out: bool = False) -> Training:
        """See `Task.training`."""
        return BagTraining(manifest, rows, held_out=held_out)

    def evaluation(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> Evaluation:
        """See `Task.evaluation`."""
        return BagEvaluation(checkpoints, job, self.predict)


TASK = BagClassification()
