"""A segmentation network small enough for tests."""

from __future__ import annotations

import torch

from wsi_attn.models.checkpoint import Checkpoint
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.joint_segmentation import JointSegmentation, JointSegmentationConfig
from wsi_attn.models.spec import ModelSpec
from wsi_attn.nn.dense_unet import DenseUNet, Layout

TINY = Layout(4, 4, (1, 1, 1, 1), (8, 8, 4, 4, 4))


def tiny(attention: str = "pointwise", classes: int = 3, crop: int = 64) -> JointSegmentation:
    """Random weights that tell pixels apart, attention that is not the identity, evaluation mode."""
    torch.manual_seed(0)
    network = JointSegmentation(JointSegmentationConfig(classes, attention=attention, crop=crop))
    network.network = DenseUNet(TINY, classes, attention)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.fill_(0.5)
        network.network.head.weight.mul_(20)
    return network.eval()


def checkpoint(network: JointSegmentation, tissue: str = "none", mpp: float | None = None) -> Checkpoint:
    labels = ("background", "cell", "gland")[: network.config.classes]
    spec = ModelSpec(labels, mpp, "H&E", tissue, task=SEGMENTATION)
    return Checkpoint("tiny", "0" * 64, "joint-segmentation", spec, network)
