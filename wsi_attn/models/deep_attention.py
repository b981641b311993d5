"""Deep attention: look at the whole coarsely, read the places that matter finely, decide from both.

Fan, Chakraborti, Chang, Xu, Rittscher, "Microscopic Fine-Grained Instance Classification Through Deep
Attention", MICCAI 2020, doi 10.1007/978-3-030-59722-1_47. What is certain of the paper: an attention module
over a coarse view points at key instances, these are cropped from the full-resolution input, one shared network
reads them, and their features and the image-level feature are fused into one label, end to end and from image
labels alone. The equations below are a reconstruction; the gate is that of Ilse et al. (ICML 2018).

(1)  F = phi(x_lo)                                         coarse features of T cells
(2)  e_t = w^T ( tanh(V f_t) * sigmoid(U f_t) )            attention logits
(3)  a = softmax_t(e)                                      attention map, over tissue only
(4)  z = sum over the M strongest cells of a'_t f_t        global feature, a' the softmax over those M
(5)  c_1..c_K = patches of x_hi at the K strongest cells   key instances, not overlapping
(6)  r_k = mean(psi(c_k))                                  one shared network reads them
(7)  g = softmax_k( gate(r_k) + e_k )                      weight of each instance
(8)  r = sum_k g_k r_k                                     local feature
(9)  o = W [z ; r] + b                                     fused label
(10) L = CE(o) + lambda_g CE(W_g z) + lambda_i CE(W_i r) + lambda_e sum_t a_t log a_t

Departures. Instances are the K strongest separated cells and not the components of a thresholded map, and are
pooled by (7, 8) and not concatenated, so that slides with any number of them fit. While training, Gumbel noise on
e_t draws them without replacement, so that every place is tried. M bounds (4) so that the feature
means the same on a field of fifty cells and on a slide of a hundred thousand. e_k inside (7) lets the fused loss
reach the attention, which the crops alone would cut off; the global head's own loss keeps it trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.contract import BagBatch, SlideModel, SlideOutput
from wsi_attn.nn.attention import GatedAttention, masked_softmax
from wsi_attn.nn.backbones import SmallResNet
from wsi_attn.nn.filters import RADIUS, smooth
from wsi_attn.nn.selection import strongest, top_cells

BLOCK_CELLS = 128
"""Side, in attention cells, of the blocks in which a large coarse view is encoded: bounds memory on slides."""


@dataclass(frozen=True)
class DeepAttentionConfig:
    """Everything that rebuilds the network."""

    classes: int
    """Number of labels."""
    coarse_factor: int = 8
    """High-resolution pixels per pixel of the coarse view, along a side."""
    patch_size: int = 128
    """Side of a key instance in high-resolution pixels."""
    instances: int = 8
    """K, most key instances that are read."""
    focus: int = 64
    """M, cells that the global feature is taken from."""
    coarse_widths: tuple[int, ...] = (24, 48, 96)
    """Channels of phi; its stride is 2 to the power of their number."""
    patch_widths: tuple[int, ...] = (24, 48, 96, 160)
    """Channels of psi."""
    hidden: int = 64
    """L, hidden units of the gates."""
    dropout: float = 0.25
    """Dropout on the features before each head."""
    spacing: float = 0.75
    """Distance between two instances, as a share of the patch side."""
    exploration: float = 1.0
    """Scale of the Gumbel noise that draws instances while training; 0 takes the strongest."""
    global_weight: float = 0.5
    """lambda_g of (10)."""
    instance_weight: float = 0.5
    """lambda_i of (10)."""
    entropy_weight: float = 0.01
    """lambda_e of (10); keeps the attention from collapsing onto one cell early."""
    smoothing: float = 0.0
    """Deviation, in pixels, of a Gaussian over every view and patch; for input sharper than the training images."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means of the input, 0 to 1."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Channel deviations of the input."""
    selection: str = "top-k"
    """How key instances are chosen: "top-k", "threshold" or "sample"."""
    threshold: float = 0.5
    """tau of the selection "threshold", on the map scaled to 0 to 1."""
    heads: int = 1
    """J, attention maps."""
    gated: bool = True
    """Whether the sigmoid gate is in (2)."""
    branches: str = "both"
    """What is fused: "both", "global" (no patch is read) or "local" (z is left out of the fusion)."""
    sampling: str = "attention"
    """What instances are drawn by: "attention", or "uniform" over the valid cells."""
    backbone: str = "small"
    """Network of the coarse view, phi: "small" or "timm:NAME"."""
    patch_backbone: str = "small"
    """Network of the patches, psi: "small" or "timm:NAME"."""


class DeepAttention(SlideModel):
    """The network of equations (1) to (9)."""

    def __init__(self, config: DeepAttentionConfig) -> None:
        super().__init__()
        self.config: DeepAttentionConfig = config
        self.phi = SmallResNet(config.coarse_widths)
        self.psi = SmallResNet(config.patch_widths)
        self.coarse_gate = GatedAttention(self.phi.out_channels, config.hidden)
        self.patch_gate = GatedAttention(self.psi.out_channels, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.global_head = nn.Linear(self.phi.out_channels, config.classes)
        self.instance_head = nn.Linear(self.psi.out_channels, config.classes)
        self.fused_head = nn.Linear(self.phi.out_channels + self.psi.out_channels, config.classes)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1) * 255, persistent=False)

    @property
    def stride(self) -> int:
        """Coarse pixels per cell of the attention map."""
        return self.phi.stride

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Answer B slides; reads K patches of each through its source."""
        features = self._encode_batch(batch)  # (B, D, h, w), equation (1)
        size, height, width = batch.valid.shape
        cells = features.flatten(2).transpose(1, 2)  # (B, T, D)
        valid = batch.valid.flatten(1).to(self.mean.device)  # (B, T)
        logits = self.coarse_gate(cells)  # (B, T), equation (2)
        attention = masked_softmax(logits, valid)  # (B, T), equation (3)
        focused = masked_softmax(logits, strongest(logits, valid, self.config.focus))
        z = torch.einsum("bt,btd->bd", focused, cells)  # (B, D), equation (4)

        picked, patch_xy, patch_mask = self._select(logits.view(size, height, width), batch)
        r, patch_attention, readable = self._read(logits, picked, patch_xy, patch_mask, batch)

        z, r = self.dropout(z), self.dropout(r)
        return SlideOutput(
            logits=self.fused_head(torch.cat([z, r], dim=1)),  # equation (9)
            attention=attention.view(size, height, width),
            patch_xy=patch_xy,
            patch_size=torch.full_like(patch_xy[..., 0], self.config.patch_size),
            patch_mask=readable,
            patch_attention=patch_attention,
            global_logits=self.global_head(z),
            instance_logits=self.instance_head(r),
            unreadable=(patch_mask & ~readable).sum(dim=1),
            evidence=None if self.training else self._evidence(cells).view(size, -1, height, width),
        )

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of equation (10), weighted.

        Parameters
        ----------
        labels
            int64 (B,).
        class_weights
            float (C,), weight of each class in the cross-entropies; equal by default.
        """
        config = self.config
        attention = output.attention.flatten(1)
        entropy = -(attention * torch.log(attention + 1e-6)).sum(dim=1).mean()
        terms = {"fused": functional.cross_entropy(output.logits, labels, class_weights)}
        for name, weight, logits in (
            ("global", config.global_weight, output.global_logits),
            ("instance", config.instance_weight, output.instance_logits),
        ):
            if logits is not None:
                terms[name] = weight * functional.cross_entropy(logits, labels, class_weights)
        return {**terms, "entropy": -config.entropy_weight * entropy}

    def encode(self, coarse: Tensor) -> Tensor:
        """Coarse features of uint8 views, equation (1).

        In evaluation a large view is encoded block by block, each with the margin that the convolutions see, so
        the result equals that of one pass while memory stays flat.

        Parameters
        ----------
        coarse
            uint8 (B, 3, H, W).

        Returns
        -------
        float (B, D, ceil(H/stride), ceil(W/stride)).
        """
        stride = self.phi.stride
        height, width = (-(-extent // stride) for extent in coarse.shape[2:])
        if self.training or max(height, width) <= BLOCK_CELLS:
            whole: Tensor = self.phi(self._normalise(coarse))
            return whole.float()
        margin = -(-(self.phi.halo + RADIUS) // stride)
        features = self.mean.new_empty((len(coarse), self.phi.out_channels, height, width))
        for top in range(0, height, BLOCK_CELLS):
            for left in range(0, width, BLOCK_CELLS):
                first_row, first_column = max(0, top - margin), max(0, left - margin)
                bottom, right = min(height, top + BLOCK_CELLS), min(width, left + BLOCK_CELLS)
                rows = slice(first_row * stride, (bottom + margin) * stride)
                columns = slice(first_column * stride, (right + margin) * stride)
                block = self.phi(self._normalise(coarse[:, :, rows, columns]))
                features[:, :, top:bottom, left:right] = block[
                    :, :, top - first_row : bottom - first_row, left - first_column : right - first_column
                ]
        return features

    def _encode_batch(self, batch: BagBatch) -> Tensor:
        """Coarse features of a batch; in evaluation padding changes none of them."""
        if self.training or batch.coarse_size is None:
            return self.encode(batch.coarse)
        # One by one: a convolution beside padding sees other values than beside an edge.
        features = self.mean.new_zeros((len(batch.coarse), self.phi.out_channels, *batch.valid.shape[1:]))
        for index, (width, height) in enumerate(batch.coarse_size.tolist()):
            part = self.encode(batch.coarse[index : index + 1, :, :height, :width])
            features[index, :, : part.shape[2], : part.shape[3]] = part[0]
        return features

    def _evidence(self, cells: Tensor) -> Tensor:
        """What each cell would add to the logits of (9) if it alone were the focus of (4): (B, T, D) to (B, C, T).

        Above the mean of the labels, since softmax sees only differences. Averaged over the focus by a', and with the
        part of the patches and the bias, it is the logits themselves.
        """
        coarse = self.fused_head.weight[:, : self.phi.out_channels]  # (C, D), the part of W that reads z
        return torch.einsum("cd,btd->bct", coarse - coarse.mean(dim=0), cells)

    def _normalise(self, pixels: Tensor) -> Tensor:
        light = smooth(pixels.to(self.mean.device).float(), self.config.smoothing)
        return (light - self.mean) / self.std

    def _select(self, logits: Tensor, batch: BagBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, patch corners and mask of the key instances, equation (5): (B, K), (B, K, 2), (B, K)."""
        config = self.config
        scores = logits.detach()
        if self.training and config.exploration > 0 and batch.generator is not None:
            uniform = torch.rand(scores.shape, generator=batch.generator).clamp_(1e-9, 1 - 1e-9).to(scores.device)
            scores = scores - config.exploration * torch.log(-torch.log(uniform))
        radius = max(1.0, config.spacing * config.patch_size / self.cell)
        size, _, width = logits.shape
        device = logits.device
        picked = torch.zeros((size, config.instances), dtype=torch.int64)
        patch_xy = torch.zeros((size, config.instances, 2), dtype=torch.int64)
        patch_mask = torch.zeros((size, config.instances), dtype=torch.bool)
        for index in range(size):
            cells = top_cells(scores[index], batch.valid[index].to(device), config.instances, radius).cpu()
            count = len(cells)
            centre = (cells.flip(1) * self.cell) + self.cell // 2  # (k, 2), x and y
            corner = centre - config.patch_size // 2
            limit = (batch.extent[index].cpu() - config.patch_size).clamp(min=0)
            picked[index, :count] = cells[:, 0] * width + cells[:, 1]
            patch_xy[index, :count] = torch.minimum(corner.clamp(min=0), limit)  # shifted inside, never shrunk
            patch_mask[index, :count] = True
        return picked.to(device), patch_xy.to(device), patch_mask.to(device)

    def _read(
        self, logits: Tensor, picked: Tensor, patch_xy: Tensor, patch_mask: Tensor, batch: BagBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Local feature, instance weights and readable mask, equations (6) to (8): (B, D), (B, K), (B, K)."""
        readable = patch_mask.clone()
        pixels = []
        for index, source in enumerate(batch.sources):
            corners = patch_xy[index][patch_mask[index]].cpu().numpy().astype(np.int64)
            patches, decoded = source.read_patches(corners, self.config.patch_size)
            readable[index, : len(corners)] = torch.from_numpy(decoded).to(readable.device)
            pixels.append(torch.from_numpy(patches[decoded]))
        features = logits.new_zeros((*patch_mask.shape, self.psi.out_channels))
        stacked = torch.cat(pixels)
        if len(stacked):
            stacked = stacked.permute(0, 3, 1, 2)
            # Only real crops pass through psi: empty ones would pollute its batch statistics.
            features[readable] = self.psi(self._normalise(stacked)).float().mean(dim=(2, 3))
        e = logits.gather(1, picked)
        weights = masked_softmax(self.patch_gate(features) + e, readable)  # (B, K), equation (7)
        return torch.einsum("bk,bkd->bd", weights, features), weights, readable  # equation (8)
