"""The task "segmentation", see `tasks.base`."""

from __future__ import annotations

from wsi_attn.errors import UsageError
from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.tasks.base import Inference, Task
from wsi_attn.tasks.config import InferenceConfig
from wsi_attn.tasks.segmentation.config import SegmentConfig
from wsi_attn.tasks.segmentation.inference import PixelInference


class Segmentation(Task):
    """A class for every pixel."""

    name = "segmentation"

    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        """See `Task.inference`."""
        if not isinstance(config, SegmentConfig):
            raise UsageError(f"{checkpoint.name} is a segmentation model: use `wsi-attn segment`")
        return PixelInference(checkpoint, config)


TASK = Segmentation()
