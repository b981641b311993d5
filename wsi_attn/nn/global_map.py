"""A spatial weight map shared by all images: a binary pixel classifier whose features are all images at that pixel.

Letters: N images, C channels, G side of the map in cells.

(1)  u_p = ( X^(1)_p, ..., X^(N)_p )             features of pixel p: its value in every image
(2)  m_p = sigmoid( g(u_p) )                     weight of pixel p; p is important where m_p > 1/2, that is g(u_p) > 0

Xu et al., "A Novel Global Spatial Attention Mechanism in Convolutional Neural Network for Medical Image
Classification", arXiv 2007.15897. The full text was not available: (1) and (2) are a direct reading of its
abstract, and g follows a later author's account of the original code: convolution, ReLU, 1x1 convolution, sigmoid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi_attn.nn.gates import Gated

DECAY = 0.99
"""Of the moving average that stands for the maps of all batches."""


def standardised(images: Tensor) -> Tensor:
    """Float (N, C, H, W), each image with mean 0 and deviation 1 over all its values."""
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.std(dim=(1, 2, 3), keepdim=True, correction=0).clamp(min=1e-6)


def pixel_features(images: Tensor) -> Tensor:
    """Equation (1): float (N, C, H, W) to (1, N C, H, W), channel n C + c from image n."""
    return images.reshape(1, -1, *images.shape[2:])


class PixelClassifier(Gated):
    """The classifier g of equation (2).

    A pixel has thousands of features, so that a step of a usual learning rate in each would saturate the sigmoid at
    once. Hidden units therefore divide the sum by the root of their number and have weights near 1 (the NTK
    parametrisation of Jacot et al., NeurIPS 2018), and all parameters learn at the rate of gates.

    Parameters
    ----------
    channels
        Features of a pixel, N C.
    hidden
        Hidden units; 0 makes g linear.
    side
        Side of its first convolution: 1 uses the pixel only, 3 also its neighbours.
    bias
        Initial value of the last bias.
    """

    def __init__(self, channels: int, hidden: int, side: int, bias: float) -> None:
        super().__init__()
        padding, self.scale = side // 2, 1.0
        last = nn.Conv2d(hidden, 1, 1) if hidden else nn.Conv2d(channels, 1, side, padding=padding)
        self.layers = nn.Sequential(last)
        if hidden:
            first = nn.Conv2d(channels, hidden, side, padding=padding)
            nn.init.uniform_(first.weight, -1, 1)
            self.layers = nn.Sequential(first, nn.ReLU(), last)
            self.scale = (channels * side**2) ** -0.5
        if last.bias is not None:
            nn.init.constant_(last.bias, bias)

    def __call__(self, features: Tensor) -> Tensor:
        """`forward`, with its type."""
        logits: Tensor = super().__call__(features)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Float (1, N C, H, W) to logits (1, 1, H, W)."""
        logits: Tensor = self.layers(features * self.scale)
        return logits

    def gates(self) -> dict[str, nn.Parameter]:
        """See `Gated.gates`: all parameters."""
        return dict(self.named_parameters())

    def scalars(self) -> dict[str, float]:
        """See `Gated.scalars`: none, the map itself is logged."""
        return {}


class FreeMap(Gated):
    """Logits of every pixel as free parameters: g of one-hot features."""

    gate_names = ("logits",)

    def __init__(self, grid: int, bias: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((1, 1, grid, grid), bias))

    def __call__(self) -> Tensor:
        """`forward`, with its type."""
        logits: Tensor = super().__call__()
        return logits

    def forward(self) -> Tensor:
        """Logits (1, 1, G, G)."""
        return self.logits


class GlobalMap(nn.Module):
    """The map shared by all images, learned in one of three ways; constant after training.

    "anchor" and "shuffled": the features come from a fixed set of images, so the map depends on nothing else. "batch":
    the features come from the current batch, so the map changes with every batch and its order; prediction uses a
    moving average. "free": no features. "none": 1 everywhere, for a network without a map.

    In evaluation, and before `begin`, the map is the buffer `values`; switching to evaluation refreshes it.

    Parameters
    ----------
    kind
        "anchor", "batch", "free", "shuffled" or "none".
    grid
        G, side of the map in cells.
    hidden, side, bias
        Of the classifier, see `PixelClassifier`.

    Attributes
    ----------
    values
        float (1, 1, G, G), 0 to 1.
    frozen
        Whether the map is fixed to `values` during training as well.
    """

    values: Tensor

    def __init__(self, kind: str, grid: int, hidden: int, side: int, bias: float) -> None:
        super().__init__()
        self.kind, self.grid = kind, grid
        self.hidden, self.side, self.bias = hidden, side, bias
        self.learner: PixelClassifier | FreeMap | None = None
        self.anchors: Tensor | None = None  # no buffer: neither averaged, nor saved, nor sent to other ranks
        self.frozen = False
        first = torch.tensor(bias).sigmoid() if kind != "none" else torch.ones(())
        self.register_buffer("values", first.expand(1, 1, grid, grid).clone())

    def begin(self, channels: int, anchors: Tensor | None = None) -> None:
        """Make the map learnable.

        Parameters
        ----------
        channels
            Features of a pixel.
        anchors
            float (N, C, G, G), the images that "anchor" uses.
        """
        if self.kind == "none":
            return
        learner = FreeMap(self.grid, self.bias)
        self.learner = (
            learner if self.kind == "free" else PixelClassifier(channels, self.hidden, self.side, self.bias)
        ).to(self.values.device)
        self.anchors = None if anchors is None else pixel_features(standardised(anchors))

    def forward(self, images: Tensor) -> Tensor:
        """The map, float (1, 1, G, G).

        Parameters
        ----------
        images
            float (B, C, G, G), images of the batch, which "batch" learns from.
        """
        if self.learner is None or self.frozen or not self.training:
            return self.values
        weights = self._learned(self.learner, images)
        if self.kind == "batch":
            with torch.no_grad():
                self.values.lerp_(weights.detach(), 1 - DECAY)
        return weights

    def _learned(self, learner: PixelClassifier | FreeMap, images: Tensor) -> Tensor:
        """Equation (2); only "batch" uses `images`."""
        if isinstance(learner, FreeMap):
            return learner().sigmoid()
        if self.anchors is None:
            return learner(pixel_features(standardised(images))).float().sigmoid()
        self.anchors = self.anchors.to(self.values.device)  # once
        return learner(self.anchors).float().sigmoid()

    @torch.no_grad()
    def keep(self) -> None:
        """Write the learned map into `values`, which already holds the moving average of "batch"."""
        if self.learner is not None and self.kind != "batch" and not self.frozen:
            self.values.copy_(self._learned(self.learner, self.values))

    def train(self, mode: bool = True) -> GlobalMap:
        """See `nn.Module.train`; evaluation starts with the current map."""
        if not mode:  # also for a module in evaluation mode, because weight averaging changes it there
            self.keep()
        super().train(mode)
        return self

    def finish(self) -> None:
        """Drop classifier and anchors and keep `values`."""
        self.learner, self.anchors = None, None
