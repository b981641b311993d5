"""The task "segmentation", see `tasks.base`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_attn.data.manifest import Row
from wsi_attn.errors import UsageError
from wsi_attn.models.checkpoint import Checkpoint, model_record
from wsi_attn.tasks.base import Evaluation, EvaluationJob, Inference, Task, Training
from wsi_attn.tasks.config import InferenceConfig, RunOptions
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.evaluation import SegmentationEvaluation
from wsi_attn.tasks.segmentation.inference import PixelInference
from wsi_attn.tasks.segmentation.tiled_inference import segmenter
from wsi_attn.tasks.segmentation.training import SegmentationTraining


class Segmentation(Task):
    """A class for every pixel."""

    name = "segmentation"
    measure = "dice"
    need_label = False

    def training(self, manifest: Path, rows: Sequence[Row], options: RunOptions, *, held_out: bool = False) -> Training:
        """See `Task.training`."""
        return SegmentationTraining(manifest, rows, options.classes)

    def evaluation(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> Evaluation:
        """See `Task.evaluation`."""
        first = checkpoints[0]
        return SegmentationEvaluation(segmenter(first), first.spec, job, model_record([first]))

    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        """See `Task.inference`."""
        if not isinstance(config, SegmentConfig):
            raise UsageError(f"{checkpoint.name} is a segmentation model: use `wsi-attn segment`")
        return PixelInference(checkpoint, config)


TASK = Segmentation()
