"""Segmentation with joint attention: a class for every pixel.

Zhang, Dong, Li, "Joint attention for medical image segmentation", ISBI 2022: point-wise attention and self-attention in
one module, inside a DenseUNet (`nn.joint_attention`, `nn.dense_unet`) or a U-Net over another backbone (`nn.unet`). The
paper's formula and recipe are not public; this is a reconstruction that offers the kinds of attention as options, to be
compared on validation data.

(1)  o_p = UNet(x)_p                               logits of pixel p
(2)  L   = CE(o, y) + 1 - mean_c D_c               over the pixels that have a label
(3)  D_c = (2 sum_p p_pc y_pc + 1) / (sum_p p_pc + sum_p y_pc + 1)      soft Dice over the batch

The soft Dice is the form of Drozdzal et al., "The Importance of Skip Connections", 2016, smoothed by 1 so that a class
that is absent from all crops costs nothing if it is not predicted. Class weights apply to the cross-entropy; Dice needs
none.

The slide-level logits are the logarithms of the class shares among the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, without_patches
from wsi_attn.models.coarse import Normalise
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.configs.common import PRETRAINED
from wsi_attn.models.configs.joint_segmentation import JointSegmentationConfig
from wsi_attn.nn.backbones import BACKBONES, build_backbone
from wsi_attn.nn.dense_unet import LAYOUTS, DenseUNet
from wsi_attn.nn.joint_attention import NONE, SELF, JointAttention
from wsi_attn.nn.unet import STRIDE, BackboneUNet, UNet
from wsi_attn.registry import unknown_name

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation that the weights of torchvision and timm were trained with."""

WIDTHS = (16, 24, 32, 64, 96)
"""Channels of the small backbones."""

UNLABELLED = -1
"""Label of a pixel that counts for nothing."""


class JointSegmentation(SlideModel):
    """The network of equation (1)."""

    config_class = JointSegmentationConfig
    task: ClassVar[str] = SEGMENTATION
    former: ClassVar[Mapping[str, object]] = {"gated_skips": False}

    def __init__(self, config: JointSegmentationConfig) -> None:
        super().__init__()
        self.config: JointSegmentationConfig = config
        self.normalise = Normalise(config.mean, config.std, smoothing=0.0)
        skips = config.gated_skips or config.attention != SELF
        kind, heads, dropout = config.attention, config.heads, config.dropout
        self.network: UNet
        if config.backbone in LAYOUTS:
            layout = LAYOUTS[config.backbone]
            self.network = DenseUNet(layout, config.classes, kind, heads, dropout, gated_skips=skips)
        else:
            if config.backbone.partition(":")[0] not in BACKBONES:
                raise unknown_name("network of joint-segmentation", config.backbone, (*LAYOUTS, *PRETRAINED))
            backbone = build_backbone(config.backbone, WIDTHS, STRIDE)
            self.network = BackboneUNet(backbone, config.classes, kind, heads, dropout, gated_skips=skips)

    @classmethod
    def completed(cls, options: Mapping[str, object]) -> Mapping[str, object]:
        """Add the ImageNet normalisation for DenseNets with ImageNet weights."""
        published = LAYOUTS[name].published if (name := options.get("backbone")) in LAYOUTS else ""
        own = "mean" in options or "std" in options or not published
        return options if own else {**options, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}

    def backbones(self) -> list[nn.Module]:
        """See `Network.backbones`: the encoder."""
        return self.network.encoder()

    def logged(self) -> dict[str, float]:
        """See `Network.logged`: also the running means of the point-wise gates."""
        means = {
            f"gates/{path}.gate_mean": module.gate_mean.item()
            for path, module in self.named_modules()
            if isinstance(module, JointAttention) and module.gate is not None
        }
        return super().logged() | means

    @property
    def stride(self) -> int:
        """Cells are pixels; `valid` of a batch excludes padding."""
        return 1

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict the pixels of B images, (B, 3, H, W) of `batch.coarse`."""
        valid = batch.valid.to(self.normalise.mean.device)
        logits = self.network(self.normalise(batch.coarse), valid)
        share = valid / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)  # (B, H, W)
        areas = (logits.float().softmax(dim=1) * share[:, None]).sum(dim=(2, 3))  # (B, C)
        whole = without_patches(areas.clamp(min=torch.finfo(areas.dtype).tiny).log(), share)
        return SlideOutput(**{**vars(whole), "segmentation": logits})

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Equation (2); `labels` is int64 (B, H, W), `UNLABELLED` where a pixel has none."""
        assert output.segmentation is not None  # noqa: S101 - of `forward`
        logits = output.segmentation.float()
        known = labels != UNLABELLED
        if not known.any():
            nothing = 0.0 * logits.sum()
            return {"cross_entropy": nothing, "dice": nothing}
        entropy = functional.cross_entropy(logits, labels, class_weights, ignore_index=UNLABELLED)
        return {"cross_entropy": entropy, "dice": 1 - soft_dice(logits.softmax(dim=1), labels, known).mean()}

    def kinds_of_attention(self) -> dict[str, dict[str, float]]:
        """Return the learned state of each attention module by its stride in pixels: mean gate, beta, weight of
        the branch.

        A large gate and a small beta indicate local labels, a large beta that labels need context.
        """
        found = {}
        for index, module in enumerate(self.network.attentions):
            assert isinstance(module, JointAttention)  # noqa: S101 - for the type checker
            if module.kind != NONE:
                gate = {} if module.gate is None else {"gate_mean": module.gate_mean.item()}
                beta = {} if module.beta is None else {"beta": module.beta.item()}
                found[str(2 ** (index + 1))] = {**gate, **beta, "gamma": module.gamma.item()}
        return found


def soft_dice(probabilities: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Equation (3), of each class.

    Parameters
    ----------
    probabilities
        float (B, C, H, W).
    labels
        int64 (B, H, W).
    known
        bool (B, H, W), pixels that count.

    Returns
    -------
    float (C,), 0 to 1.
    """
    classes = probabilities.shape[1]
    truth = functional.one_hot(labels.clamp(min=0), classes).permute(0, 3, 1, 2) * known[:, None]
    found = probabilities * known[:, None]
    both = (found * truth).sum(dim=(0, 2, 3))
    return (2 * both + 1) / (found.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3)) + 1)
