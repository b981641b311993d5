"""The baseline: a CNN on the coarse view with average pooling and a linear head.

(1)  F = phi(x_lo)                 features of T cells
(2)  z = 1/n sum_t m_t f_t         global average pooling over the n valid cells, m_t in {0, 1}
(3)  o = W z + b                   label
(4)  L = CE(o)

It views the whole image at `coarse_factor` (1 is the high resolution) and reads no patches, so the difference from
another system with the same coarse view measures the contribution of that system's patches. Its evidence map is the
class activation map of Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, equation 2.

Differences from a plain CNN: cells without tissue and padding are excluded from (2). A prior only excludes cells; it
does not weight them. The reported attention is uniform over the cells of (2).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, without_patches
from wsi_attn.models.coarse import Normalise, allowed_cells, encode_blocks, views
from wsi_attn.models.configs.cnn import CnnConfig
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.backbones import HEAD_STRIDE, build_backbone


class Cnn(SlideModel):
    """The network of equations (1) to (3)."""

    config_class = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.config: CnnConfig = config
        self.normalise = Normalise(config.mean, config.std, config.smoothing)
        deep = config.feature_stride >= HEAD_STRIDE
        self.phi = build_backbone(config.backbone, config.coarse_widths, config.feature_stride, head=deep)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.phi.pooled_channels, config.classes)

    def view_backbones(self) -> list[tuple[Backbone, int]]:
        """See `SlideModel.view_backbones`."""
        return [(self.phi, len(self.phi.stages()))]

    def linear_heads(self) -> list[tuple[nn.Linear, slice]]:
        """See `SlideModel.linear_heads`."""
        return [(self.head, slice(None))]

    @property
    def stride(self) -> int:
        """Coarse pixels per cell of the maps."""
        return self.phi.stride

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict B slides."""
        valid, _ = allowed_cells(batch, self.normalise.mean.device)
        share = valid / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)  # (B, h, w)
        share = share.to(self.normalise.mean.dtype)
        evidence = None if self.training else share.new_zeros((len(share), self.config.classes, *share.shape[1:]))
        weight = self.head.weight - self.head.weight.mean(dim=0)  # (C, D), above the mean of the labels
        pooled, maps = [], []
        for slides, view in views(batch, training=self.training):
            z = share.new_zeros((slides.stop - slides.start, self.phi.pooled_channels))
            blocks = encode_blocks(self.phi, self.normalise, view, valid[slides], batch.progress)
            for rows, columns, features in blocks:  # equation (1)
                z = z + torch.einsum("bhw,bdhw->bd", share[slides, rows, columns], features)  # equation (2)
                if self.training:  # a single block
                    maps.append(features)
                if evidence is not None:
                    evidence[slides, :, rows, columns] = torch.einsum("cd,bdhw->bchw", weight, features)
            pooled.append(z)
        features = torch.cat(pooled)
        output = without_patches(self.decide(features), share, evidence=evidence, pooled=features)
        return replace(output, features=maps[0]) if maps else output

    def decide(self, pooled: Tensor) -> Tensor:
        """Equation (3); see `Network.decide`."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Equation (4); see `SlideModel.losses`."""
        return {"fused": functional.cross_entropy(output.logits, labels, class_weights)}
