"""The task "classification", see `tasks.base`."""

from __future__ import annotations

from wsi_attn.errors import UsageError
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.tasks.base import Inference, Task
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.inference import SlideInference
from wsi_attn.tasks.config import InferenceConfig


class Classification(Task):
    """A label for each slide."""

    name = "classification"

    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        """See `Task.inference`."""
        if not isinstance(config, PredictConfig):
            raise UsageError(
                f"{checkpoint.name} ({checkpoint.system}) classifies whole slides and does not segment; train a model "
                "with --model joint-segmentation"
            )
        return SlideInference(checkpoint, config)


TASK = Classification()
