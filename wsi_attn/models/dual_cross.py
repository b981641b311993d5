"""Dual cross-attention: two backbones see an image, finely and coarsely, and exchange features by cross-attention.

Borah, Singh, "DCAT: Dual Cross-Attention Fusion for Disease Classification in Radiological Images with Uncertainty
Estimation", arXiv 2503.11851. The paper states: EfficientNet-B4 and ResNet-34 on the same input, tapped at
two depths; cross-attention in both directions between maps of one depth; refinement by channel and then spatial
attention; dropout at prediction for the uncertainty. The full text was not available: numbers and details below are a
reconstruction. At each level l, of stride 8 and 16, with E and R the maps of the two networks brought to one width:

(1)  E = BN(conv1x1(F_1)),  R = BN(conv1x1(F_2))
(2)  E' = E + gamma_E A_E(E, R),  R' = R + gamma_R A_R(R, E)         `nn.cross_attention`; gammas begin at 0.1
(3)  g = sigmoid( conv1x1([E' ; R']) ),  F = g E' + (1 - g) R'
(4)  F <- F + M_s * (M_c * F)                                        `nn.refine`
(5)  G = relu(BN(conv3x3([ conv3x3_stride2(F_8) ; F_16 ])))
(6)  z = mean of G over the n valid cells
(7)  o = W_2 drop( relu( W_1 drop(z) ) )                             label
(8)  L = CE(o)

The displayed map is M_s of stride 16. The evidence of a cell is (7) applied to G there alone, above the mean of the
labels.

Differences from the paper. EfficientNet-B4 is tapped at the last block of stride 16, with 160 channels, and not at the
one before it, because timm returns one map per stride. Keys are averaged to at most `most_keys`. Cells without tissue
are excluded from keys and means. Images keep their size. With `second_factor` f above 1 the second network sees the
image f times smaller, so that its cells see f times as far; cross-attention is then between grids of two sizes, and R'
is interpolated to the grid of E'.

Ablations. `fusion="concat"` omits (2) and uses F = conv1x1([E ; R]); "first" and "second" use one network alone,
F = E or F = R.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import UsageError
from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, without_patches
from wsi_attn.models.coarse import Normalise, allowed_cells, views
from wsi_attn.models.configs.dual_cross import OURS, PUBLISHED, DualCrossConfig
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.backbones import build_backbone, normalisation_of, timm_is_here
from wsi_attn.nn.cross_attention import TwoWay
from wsi_attn.nn.refine import Refine, masked_mean

FINE, COARSE = 8, 16
"""Strides of the two levels."""


class Level(nn.Module):
    """Equations (1) to (4) at one depth.

    Parameters
    ----------
    channels
        Of the first and the second map; one alone where the fusion uses one network.
    """

    def __init__(self, channels: list[int], width: int, config: DualCrossConfig) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1, bias=False), nn.BatchNorm2d(width)) for count in channels
        )
        self.cross = TwoWay(width, config.heads, config.most_keys) if config.fusion == "cross" else None
        self.merge = nn.Conv2d(2 * width, width, 1) if len(channels) == 2 else None
        self.factor = config.second_factor
        self.refine = Refine(width)

    def __call__(self, maps: list[Tensor], allowed: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, with its type."""
        found: tuple[Tensor, Tensor] = super().__call__(maps, allowed)
        return found

    def forward(self, maps: list[Tensor], allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the networks, float (B, C, h, w), and bool (B, h, w) to F, float (B, D, h, w), and M_s (B, h, w).

        A map of the second network may be `second_factor` times smaller.
        """
        projected = [project(found) for project, found in zip(self.projections, maps, strict=True)]  # equation (1)
        return self.refine(self.fused(projected, allowed), allowed)  # equation (4)

    def fused(self, projected: list[Tensor], allowed: Tensor) -> Tensor:
        """Equations (2) and (3), or their replacement in an ablation."""
        if self.merge is None:
            return self._on_grid(projected[0], allowed)
        e, r = projected
        if self.cross is None:
            merged: Tensor = self.merge(torch.cat([e, self._on_grid(r, allowed)], dim=1))
            return merged
        e, r = self.cross(e, r, allowed, self._reduced(allowed, r))
        r = self._on_grid(r, allowed)
        gate = torch.sigmoid(self.merge(torch.cat([e, r], dim=1)))
        return gate * e + (1 - gate) * r

    def _reduced(self, allowed: Tensor, features: Tensor) -> Tensor:
        """Return which cells of a map of the second network hold an allowed cell, bool (B, h', w')."""
        down, across = (n * self.factor - have for n, have in zip(features.shape[2:], allowed.shape[1:], strict=True))
        padded = functional.pad(allowed[:, None].to(features.dtype), (0, across, 0, down))
        return functional.max_pool2d(padded, self.factor)[:, 0] > 0

    def _on_grid(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Interpolate a map of the second network to the grid of the first."""
        height, width = allowed.shape[1:]
        if features.shape[2:] == (height, width):
            return features
        return functional.interpolate(features, scale_factor=self.factor, mode="bilinear")[:, :, :height, :width]


class DualCross(SlideModel):
    """The network of equations (1) to (7)."""

    config_class = DualCrossConfig
    former: ClassVar[Mapping[str, object]] = {"second_mean": None, "second_std": None}

    def __init__(self, config: DualCrossConfig) -> None:
        super().__init__()
        self.config: DualCrossConfig = config
        self.normalise = Normalise(config.mean, config.std, config.smoothing)
        names = [config.backbone, config.second_backbone]
        used = {"first": names[:1], "second": names[1:]}.get(config.fusion, names)
        self.seconds = {"first": [False], "second": [True]}.get(config.fusion, [False, True])
        self.networks = nn.ModuleList(build_backbone(name, config.coarse_widths, COARSE) for name in used)
        self.taps = [
            [_stage_at(self._network(n), stride, used[n]) for n in range(len(used))] for stride in (FINE, COARSE)
        ]
        fine, coarse = (
            [self._network(n).stages()[stage - 1].channels for n, stage in enumerate(stages)] for stages in self.taps
        )
        self.fine, self.coarse = Level(fine, config.widths[0], config), Level(coarse, config.widths[1], config)
        self.reduce = nn.Conv2d(config.widths[0], config.widths[0], 3, 2, 1)
        self.together = nn.Sequential(
            nn.Conv2d(sum(config.widths), config.fused_width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(config.fused_width),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.fused_width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )

    @classmethod
    def completed(cls, options: Mapping[str, object]) -> Mapping[str, object]:
        """Choose the backbones of the paper if timm is installed, otherwise small ones, and the normalisation of the
        second; see `SlideModel.completed`.
        """
        names = ("backbone", "second_backbone")
        if not all(name in options for name in names):
            chosen = PUBLISHED if timm_is_here() else OURS
            options = {**dict(zip(names, chosen, strict=True)), **options}
        if "mean" in options or "second_mean" in options:
            return options
        found = normalisation_of(str(options["second_backbone"]))
        return {**options, "second_mean": found[0], "second_std": found[1]} if found else options

    def view_backbones(self) -> list[tuple[Backbone, int]]:
        """See `SlideModel.view_backbones`: the stages before the first tap."""
        return [(self._network(n), stage - 1) for n, stage in enumerate(self.taps[0])]

    @property
    def stride(self) -> int:
        """Coarse pixels per cell of the maps."""
        return COARSE

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict B slides."""
        valid, _ = allowed_cells(batch, self.normalise.mean.device)
        attention = self.normalise.mean.new_zeros(valid.shape)
        pooled, grids = [], []
        for slides, view in views(batch, training=self.training):
            height, width = (-(-extent // COARSE) for extent in view.shape[2:])
            part = (slides, slice(0, height), slice(0, width))
            grid, places = self.encode(self.normalise(view[:, :]), valid[part])
            attention[part] = (places * valid[part]).to(attention.dtype)
            pooled.append(masked_mean(grid, valid[part]))  # equation (6)
            grids.append((slides, grid))
        attention = attention / attention.sum(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
        z = torch.cat(pooled)
        logits = self.decide(z)
        evidence = None if self.training else self._evidence(grids, attention)
        features = grids[0][1] if self.training else None  # of all slides together
        return replace(without_patches(logits, attention, evidence=evidence, pooled=z), features=features)

    def _evidence(self, grids: list[tuple[slice, Tensor]], attention: Tensor) -> Tensor:
        """Return the prediction for each cell alone, above the mean of the labels: (B, C, h, w)."""
        evidence = attention.new_zeros((len(attention), self.config.classes, *attention.shape[1:]))
        for slides, grid in grids:
            cells = self.decide(grid.movedim(1, -1)).movedim(-1, 1)
            evidence[slides, :, : grid.shape[2], : grid.shape[3]] = cells - cells.mean(dim=1, keepdim=True)
        return evidence

    def encode(self, images: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Equations (1) to (5).

        Parameters
        ----------
        images
            Float (B, 3, H, W), normalised.
        allowed
            bool (B, ceil(H/16), ceil(W/16)).

        Returns
        -------
        G, float (B, D, h, w), and M_s of stride 16, float (B, h, w).
        """
        height, width = images.shape[2:]
        fine, coarse = self.tapped(functional.pad(images, (0, -width % COARSE, 0, -height % COARSE)))
        ratio = COARSE // FINE
        allowed_fine = allowed.repeat_interleave(ratio, dim=1).repeat_interleave(ratio, dim=2)
        first, _ = self.fine(fine, allowed_fine)
        second, places = self.coarse(coarse, allowed)
        grid = self.together(torch.cat([self.reduce(first), second], dim=1))  # equation (5)
        return grid.to(images.dtype), places

    def tapped(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps of the networks at both levels, float (B, C, H/8, W/8) and (B, C, H/16, W/16) of each
        network; those of the second network are `second_factor` times smaller.
        """
        found: dict[tuple[int, int], Tensor] = {}
        for n in range(len(self.networks)):
            network = self._network(n)
            with network.watched({stages[n]: _into(found, (level, n)) for level, stages in enumerate(self.taps)}):
                network(self._seen(images) if self.seconds[n] else images)
        fine, coarse = ([found[level, n] for n in range(len(self.networks))] for level in (0, 1))
        return fine, coarse

    def _seen(self, images: Tensor) -> Tensor:
        """What the second network sees of images, float (B, 3, H, W), in multiples of whole cells."""
        config, factor = self.config, self.config.second_factor
        if factor > 1:
            height, width = images.shape[2:]
            whole = COARSE * factor
            images = functional.avg_pool2d(functional.pad(images, (0, -width % whole, 0, -height % whole)), factor)
        if config.second_mean is None or config.second_std is None:
            return images
        mean, std, own_mean, own_std = (
            images.new_tensor(values).view(1, 3, 1, 1)
            for values in (config.mean, config.std, config.second_mean, config.second_std)
        )
        return (images * std + mean - own_mean) / own_std

    def decide(self, pooled: Tensor) -> Tensor:
        """Equation (7); see `Network.decide`."""
        logits: Tensor = self.head(pooled)
        return logits

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Equation (8); see `SlideModel.losses`."""
        return {"fused": functional.cross_entropy(output.logits, labels, class_weights)}

    def _network(self, n: int) -> Backbone:
        network = self.networks[n]
        assert isinstance(network, Backbone)  # noqa: S101 - a ModuleList loses the element type
        return network


def _into(found: dict[tuple[int, int], Tensor], place: tuple[int, int]) -> Any:
    """Return a watcher that stores the output of a stage."""

    def keep(output: Tensor) -> None:
        found[place] = output

    return keep


def _stage_at(backbone: Backbone, stride: int, name: str) -> int:
    """Number of the last stage of a stride, from 1."""
    fitting = [number for number, stage in enumerate(backbone.stages(), 1) if stage.stride == stride]
    if not fitting:
        raise UsageError(f"{name} has no stage of stride {stride}, which dual-cross needs; choose another backbone")
    return fitting[-1]
