"""Global spatial attention: one spatial weight map for a collection of aligned images.

Xu, Huang, Nitanda, Asaoka, Yamanishi, "A Novel Global Spatial Attention Mechanism in Convolutional Neural Network for
Medical Image Classification", arXiv 2007.15897. The paper states: one map for all images, made by a binary classifier
of pixels whose features are the intensities of all images there; trained together with the network; on top of
GoogLeNet, VGG, ResNet and DenseNet. The full text was not available; the equations are a direct reading of these
statements.

(1), (2)  m_p = sigmoid( g(u_p) )                see `nn.global_map`
(3)       X~ = m / mean(m) X,  or X (1 + m)  residual  of the features after a stage of the network, or of the image
(4)       o = W mean_p( f(X~)_p ) + b            label: the network f, global average pooling, a linear head
(5)       L = CE(o)

Three realisations of (1). "anchor" (the default): g sees a fixed, class-balanced set of training images, at most
`anchors` of them, or all if there are no more than twice as many. "batch": g sees the images of the batch, as a later
author reports of the original code; batches must be complete, and prediction uses a moving average. "free": one
parameter per pixel. Two controls: in "shuffled" the pixels of the anchors are permuted, equally in all, so that what
describes a pixel is not what is there; "none": m is 1, the plain network on the same view.

Reconstructions. The bias of g begins at 0, where the slope of the sigmoid is largest; training begins as the plain
network. Over the last fifth of the epochs the map is frozen and only the network is trained (the original code froze it
at an unknown time). Images are resized to one size, `view_size` squared. After a stage, u_p are the features of that
stage before training, which tell structures apart where single intensities do not, or with `map_features="intensity"`
intensities, averaged over the cells of that stage.

Differences from the paper. The map is constant at prediction: anchors and classifier are dropped after training.
Features of "batch" are standardised per image, like those of "anchor". Maps per channel are not implemented.

Consequences. Training must not flip or rotate images. Tissue and prior affect where the map is displayed but not the
prediction. Without the mean in (3), training would raise m everywhere, which makes a network of pretrained features
more confident and selects nothing; with it, only the relation of the values is meaningful.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import UsageError
from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, TrainingImages, without_patches
from wsi_attn.models.coarse import Normalise, resized, views
from wsi_attn.models.configs.global_spatial import GlobalSpatialConfig
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.backbones import HEAD_STRIDE, build_backbone
from wsi_attn.nn.global_map import GlobalMap
from wsi_attn.slide import UInt8Array

CELL = 4
"""Coarse pixels along a cell of the map that a prediction shows."""

ANCHORED = ("anchor", "shuffled")
"""Kinds of maps that are learned from a fixed set of images."""

ALIGNED = 0.1
"""Alignment below which the images are said to have no common layout."""

ALIGNMENT_SIDE = 16
"""Side of the pictures whose correlation is the alignment: layout, not texture."""


class GlobalSpatial(SlideModel):
    """The network of equations (1) to (4).

    Attributes
    ----------
    mean_image
        float (3, S, S), 0 to 255, mean of the training images, the background of the displayed map.
    alignment
        float (), see `prepare`.
    """

    config_class = GlobalSpatialConfig
    any_orientation = False
    former: ClassVar[Mapping[str, object]] = {"map_features": "intensity", "unit_mean": False}
    renamed: ClassVar[Mapping[str, str]] = {"freeze": "map_freeze"}
    mean_image: Tensor
    alignment: Tensor

    def __init__(self, config: GlobalSpatialConfig) -> None:
        super().__init__()
        self.config: GlobalSpatialConfig = config
        self.whole_batches = config.map_by == "batch"
        self.normalise = Normalise(config.mean, config.std, config.smoothing)
        self.phi = build_backbone(config.backbone, config.coarse_widths, HEAD_STRIDE, head=True)
        self.map_stride = _stride_at(self.phi, config.map_after)
        if config.view_size % self.phi.stride:
            raise UsageError(
                f"--view-size {config.view_size} is not a multiple of {self.phi.stride}, the stride of the backbone"
            )
        self.map = GlobalMap(
            config.map_by,
            config.view_size // self.map_stride,
            config.map_hidden,
            config.map_side,
            config.map_bias,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.phi.pooled_channels, config.classes)
        self.register_buffer("mean_image", torch.zeros(3, config.view_size, config.view_size))
        self.register_buffer("alignment", torch.zeros(()))

    def view_backbones(self) -> list[tuple[Backbone, int]]:
        """See `SlideModel.view_backbones`: the stages before the map."""
        return [(self.phi, self.config.map_after - 1)] if self.config.map_after else []

    def linear_heads(self) -> list[tuple[nn.Linear, slice]]:
        """See `SlideModel.linear_heads`."""
        return [(self.head, slice(None))]

    @property
    def stride(self) -> int:
        """Coarse pixels per cell of the maps that a prediction shows."""
        return CELL

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict B slides."""
        pixels = self._resized(batch)
        features = self.features(self.normalise(pixels), pixels)
        pooled = features.mean(dim=(2, 3))  # equation (4)
        attention, evidence = self._shown(batch, features)
        output = without_patches(self.decide(pooled), attention, evidence=evidence, pooled=pooled)
        return replace(output, features=features) if self.training else output

    def decide(self, pooled: Tensor) -> Tensor:
        """The head of equation (4); see `Network.decide`."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Equation (5); see `SlideModel.losses`."""
        return {"fused": functional.cross_entropy(output.logits, labels, class_weights)}

    def features(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Equation (3) and f: normalised images, float (B, 3, S, S), and their pixels, 0 to 255, to (B, D, h, w)."""
        if not self.config.map_after:
            found: Tensor = self.phi.pooled_maps(self.weighed(images, self.map(pixels)))
            return found.to(images.dtype)

        def watcher(output: Tensor) -> Tensor:
            described = output.detach() if self.config.map_features == "stage" else self._intensities(pixels)
            return self.weighed(output, self.map(described))

        with self.phi.watched({self.config.map_after: watcher}):
            found = self.phi.pooled_maps(images)
        return found.to(images.dtype)

    def prepare(self, images: TrainingImages) -> tuple[str, ...]:
        """Choose the anchors and measure how well the images are aligned.

        `alignment` is the mean correlation of two images, each reduced to grey with `ALIGNMENT_SIDE` pixels per
        side: near 0 for unrelated images, 1 for identical ones.

        Returns
        -------
        A warning if it is below `ALIGNED`.
        """
        chosen = set(balanced_choice(images.labels, self.config.anchors, images.seed))
        wanted = self.config.map_by in ANCHORED
        total = torch.zeros_like(self.mean_image, device="cpu")
        anchors, layouts = [], []
        for index in range(len(images.labels)):
            view = self._one(images.view(index))
            total += view
            layouts.append(_layout(view))
            if wanted and index in chosen:
                anchors.append(self._described(view[None])[0])
        count = len(images.labels)
        self.mean_image.copy_(total / count)
        self.alignment.fill_(alignment(torch.stack(layouts)))
        stacked = torch.stack(anchors) if wanted else None
        if stacked is not None and self.config.map_by == "shuffled":
            order = torch.randperm(self.map.grid**2, generator=torch.Generator().manual_seed(images.seed))
            stacked = stacked.flatten(2)[..., order].view(stacked.shape)
        self.map.begin(self._description() * (len(anchors) if wanted else images.batch_size), stacked)
        if self.alignment >= ALIGNED:
            return ()
        return (
            f"The training images share no layout (mean correlation {self.alignment:.2f}); "
            "a map of places means nothing unless they are cropped alike",
        )

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Freeze the map from the epoch that `map_freeze` defines, never from the first."""
        first = max(1, epochs - int(self.config.map_freeze * epochs))
        if epoch == first:
            self.map.keep()
        self.map.frozen = epoch >= first

    def logged(self) -> dict[str, float]:
        """See `Network.logged`: also mean and standard deviation of the map; 0 while nothing is learned."""
        values = self.map.values
        return super().logged() | {"map/mean": values.mean().item(), "map/std": values.std(correction=0).item()}

    def finish(self) -> None:
        """Drop anchors and classifier."""
        self.map.finish()

    def weighed(self, x: Tensor, weights: Tensor) -> Tensor:
        """Equation (3): float (B, C, G, G) under a map (1, 1, G, G)."""
        if self.config.map_by == "none":
            return x
        if self.config.residual:
            return x * (1 + weights)
        return x * (weights / weights.mean() if self.config.unit_mean else weights)

    def _described(self, pixels: Tensor) -> Tensor:
        """What describes the cells of the map, in evaluation mode: float (B, 3, S, S), 0 to 255, to (B, F, G, G)."""
        after = self.config.map_after
        if not after or self.config.map_features == "intensity":
            return self._intensities(pixels)
        kept: list[Tensor] = []
        training = self.training
        with torch.no_grad(), self.phi.watched({after: kept.append}):
            self.eval()
            self.phi(self.normalise(pixels))
            self.train(training)
        return kept[0]

    def _description(self) -> int:
        """Number F of what describes a cell."""
        after = self.config.map_after
        return self.phi.stages()[after - 1].channels if after and self.config.map_features == "stage" else 3

    def _intensities(self, pixels: Tensor) -> Tensor:
        """Intensities of the cells of the map: float (B, 3, S, S) to (B, 3, G, G)."""
        return functional.avg_pool2d(pixels, self.map_stride) if self.map_stride > 1 else pixels

    def _resized(self, batch: BagBatch) -> Tensor:
        """The views without their padding, each at `view_size`: float (B, 3, S, S), 0 to 255."""
        device, size = self.normalise.mean.device, self.config.view_size
        return torch.cat([resized(view[:, :], size).to(device) for _, view in views(batch, training=False)])

    def _one(self, view: UInt8Array) -> Tensor:
        return resized(torch.from_numpy(np.ascontiguousarray(view)).permute(2, 0, 1)[None], self.config.view_size)[0]

    def _shown(self, batch: BagBatch, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map as attention over the cells of each slide, and the class activation map in evaluation."""
        valid = batch.valid.to(features.device)
        attention = features.new_zeros(valid.shape)
        evidence = None if self.training else features.new_zeros((len(valid), self.config.classes, *valid.shape[1:]))
        centred = self.head.weight - self.head.weight.mean(dim=0)
        for index, (height, width) in enumerate(_grids(batch)):
            part = (index, slice(0, height), slice(0, width))
            attention[part] = _at(self.map.values, (height, width))[0, 0].to(features.dtype) * valid[part]
            if evidence is not None:
                activation = torch.einsum("cd,dhw->chw", centred, features[index])
                evidence[index, :, :height, :width] = _at(activation[None], (height, width))[0]
        attention = attention / attention.sum(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
        return attention, evidence


def balanced_choice(labels: Tensor, most: int, seed: int) -> list[int]:
    """Return indices of images, balanced over labels; all if there are at most 2 `most`, otherwise `most`.

    Parameters
    ----------
    labels
        int64 (n,).
    """
    if len(labels) <= 2 * most:
        return list(range(len(labels)))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).tolist()
    taken: dict[int, int] = {}
    turns = []
    for index in order:  # the first of every label come before the second of any
        label = int(labels[index])
        taken[label] = taken.get(label, 0) + 1
        turns.append((taken[label], index))
    return sorted(index for _, index in sorted(turns, key=lambda turn: turn[0])[:most])


def alignment(layouts: Tensor) -> float:
    """Return the mean correlation of pairs of images: float (n, P), each with mean 0 and length 1; 1 for a single
    image.
    """
    count = len(layouts)
    if count < 2:
        return 1.0
    together = layouts.sum(dim=0).square().sum() - layouts.square().sum()
    return float(together / (count * (count - 1)))


def _layout(view: Tensor) -> Tensor:
    """Float (3, S, S) to (`ALIGNMENT_SIDE` squared,), grey, mean 0, length 1; zeros of an even image."""
    grey = functional.adaptive_avg_pool2d(view.mean(dim=0, keepdim=True), ALIGNMENT_SIDE).flatten()
    centred = grey - grey.mean()
    length = centred.norm()
    return centred / length if length > 1e-3 else torch.zeros_like(centred)


def _at(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Float (1, C, G, G) at another size."""
    return functional.interpolate(maps.float(), shape, mode="bilinear", antialias=True)


def _grids(batch: BagBatch) -> Iterator[tuple[int, int]]:
    """Rows and columns of cells of each slide."""
    if batch.coarse_size is None:
        for _ in batch.sources:
            yield batch.valid.shape[1], batch.valid.shape[2]
        return
    for width, height in batch.coarse_size.tolist():
        yield -(-height // CELL), -(-width // CELL)


def _stride_at(backbone: Backbone, number: int) -> int:
    """Input pixels per cell after a stage; 1 at the input.

    Raises
    ------
    UsageError : the stage does not exist.
    """
    if number == 0:
        return 1
    stages = backbone.stages()
    if not 0 < number <= len(stages):
        raise UsageError(f"--map-after {number}: this backbone has stages 1 to {len(stages)}; input is also possible")
    return stages[number - 1].stride
