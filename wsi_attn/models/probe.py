"""The probe: a logistic regression on frozen features of the whole image.

It measures what the features of a pretrained network are worth without training, so that every other system has to be
better (Alain and Bengio, "Understanding intermediate layers using linear classifier probes", arXiv 1610.01644).

(1)  f = phi(x)                    x the whole image at `view_size`; features of the cells, phi frozen
(2)  z = sum_t m_t f_t             m_t the share of cell t that is valid, scaled to sum 1; mean of the parts, see below
(3)  o = W z + b                   label
(4)  W, b: logistic regression     multinomial, on standardised z, its strength chosen by grouped cross-validation

With `views` V above 1, z is the mean of (2) of the image and of (2) over V x V parts of it, each at `view_size`: by
cross-validation on training parts better than the image alone. The standardisation is part of W and b. The evidence map
is the class activation map of the whole image, as of `models.cnn`; the reported attention is uniform over the valid
cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, TrainingImages, without_patches
from wsi_attn.models.coarse import Normalise, allowed_cells, resized, views
from wsi_attn.models.configs.probe import ProbeConfig
from wsi_attn.models.head_start import solved, take_solution
from wsi_attn.nn.backbones import build_backbone

CELL = 16
"""Coarse pixels along a cell of the maps that a prediction shows."""

CPU_IMAGES = 4
"""Images of a pass on a CPU; with more, half the time goes into new memory pages."""

LARGEST_STRIDE = 32
"""Of the stage that is averaged."""

WIDTHS = (24, 48, 96, 160)
"""Channels of a small backbone, which `--backbone small` takes for a probe of random features."""


class Probe(SlideModel):
    """The model of equations (1) to (3)."""

    config_class = ProbeConfig

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config: ProbeConfig = config
        self.normalise = Normalise(config.mean, config.std, config.smoothing)
        self.phi = build_backbone(config.backbone, WIDTHS, LARGEST_STRIDE, head=True).requires_grad_(False)
        self.head = nn.Linear(self.phi.pooled_channels, config.classes)

    @property
    def stride(self) -> int:
        """Coarse pixels per cell of the maps that a prediction shows."""
        return CELL

    def train(self, mode: bool = True) -> Probe:
        """See `nn.Module.train`; the backbone stays as it is."""
        super().train(mode)
        self.phi.eval()
        return self

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict B slides."""
        valid, _ = allowed_cells(batch, self.normalise.mean.device)
        z, maps = self.pooled(batch, valid)
        share = valid / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        evidence = None if self.training else self._evidence(maps, batch, valid)
        return without_patches(self.head(z), share.to(z.dtype), evidence=evidence)

    def pooled(self, batch: BagBatch, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Equations (1) and (2).

        Parameters
        ----------
        valid
            bool (B, h, w).

        Returns
        -------
        z, float (B, D), and the features of the whole images, a float (b, D, g, g) for each part of the batch.
        """
        config, pooled, maps = self.config, [], []
        for slides, view in views(batch, training=False):
            height, width = (-(-extent // CELL) for extent in view.shape[2:])
            cells = valid[slides, None, :height, :width].to(self.normalise.mean.dtype)
            finest = resized(view, config.views * config.view_size)  # read once
            found = []
            for side in sorted({1, config.views}):
                tiles = _tiles(functional.avg_pool2d(finest, config.views // side), side)
                features = self._features(tiles).to(cells.dtype)  # equation (1)
                share = _tiles(functional.adaptive_avg_pool2d(cells, side * features.shape[-1]), side)
                found.append(_mean(features, share, len(cells)))
                if side == 1:
                    maps.append(features)
            pooled.append(torch.stack(found).mean(dim=0))
        return torch.cat(pooled), maps

    def _features(self, pixels: Tensor) -> Tensor:
        """Equation (1), on a CPU a few images at a time: float (B, 3, S, S), 0 to 255, to (B, D, g, g)."""
        few = CPU_IMAGES if self.normalise.mean.device.type == "cpu" else len(pixels)
        parts = [pixels[first : first + few] for first in range(0, len(pixels), few)]
        return torch.cat([self.phi.pooled_maps(self.normalise(part)) for part in parts])

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of (4) without its penalty; see `SlideModel.losses`."""
        return {"fused": functional.cross_entropy(output.logits, labels, class_weights)}

    @torch.inference_mode()
    def prepare(self, images: TrainingImages) -> tuple[str, ...]:
        """Solve equation (4).

        Returns
        -------
        A warning if its strength could not be chosen.
        """
        self.eval()
        device = self.normalise.mean.device
        z = torch.cat([self.pooled(batch, allowed_cells(batch, device)[0])[0] for batch in images.batches()])
        solution = solved(z.cpu().numpy(), images)
        take_solution(self.head, solution)
        return () if solution.warning is None else (solution.warning,)

    def _evidence(self, maps: list[Tensor], batch: BagBatch, valid: Tensor) -> Tensor:
        """The class activation map of the whole image above the mean of the labels: float (B, C, h, w)."""
        centred = self.head.weight - self.head.weight.mean(dim=0)
        evidence = self.head.weight.new_zeros((len(valid), self.config.classes, *valid.shape[1:]))
        for (slides, view), features in zip(views(batch, training=False), maps, strict=True):
            height, width = (-(-extent // CELL) for extent in view.shape[2:])
            activation = torch.einsum("cd,bdhw->bchw", centred, features)
            shown = functional.interpolate(activation, (height, width), mode="bilinear", antialias=True)
            evidence[slides, :, :height, :width] = shown
        return evidence


def _tiles(x: Tensor, side: int) -> Tensor:
    """Cut images into `side` parts along each side: float (B, C, side H, side W) to (B side^2, C, H, W)."""
    batch, channels, height, width = x.shape
    cut = x.reshape(batch, channels, side, height // side, side, width // side)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _mean(features: Tensor, share: Tensor, images: int) -> Tensor:
    """Equation (2) over all parts of an image: (B n, D, g, g) and (B n, 1, g, g) to (B, D)."""
    total = (features * share).sum(dim=(2, 3)).view(images, -1, features.shape[1]).sum(dim=1)
    mass = share.sum(dim=(2, 3)).view(images, -1, 1).sum(dim=1).clamp(min=1e-6)
    return total / mass
