"""Small networks of four families that train from scratch on a few hundred images.

Each has one stage of stride 2 per width, so its stride is 2 to the power of their number, and a known receptive field
(`halo`). All use batch normalisation, also where the original papers did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import UsageError
from wsi_attn.nn.backbone import Backbone, BackboneFamily, BackboneOptions, Stage

FEWEST = 8
"""Least channels of an inception block: an eighth is the share of its smallest branch."""

GROWTH, LAYERS = 16, 3
"""Channels that a layer of a dense block adds, and layers of a block."""


def convolution(in_channels: int, out_channels: int, side: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
            if stride != 1 or in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C', H/stride, W/stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        # Subsample the shortcut here instead of with a strided convolution: the backward pass of oneDNN, as
        # torch 2.13 has it, writes past a buffer for a strided 1x1 with fewer than 16 channels, channels last.
        picked = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(picked))


class Inception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and a pooled branch side by side (Szegedy et al., CVPR 2015, figure 2b)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        single, triple, quintuple = out_channels // 4, out_channels // 2, out_channels // 8
        reduced = max(4, out_channels // 8)
        self.branches = nn.ModuleList(
            [
                convolution(in_channels, single, 1),
                nn.Sequential(convolution(in_channels, 2 * reduced, 1), convolution(2 * reduced, triple, 3)),
                nn.Sequential(convolution(in_channels, reduced, 1), convolution(reduced, quintuple, 5)),
                nn.Sequential(
                    nn.MaxPool2d(3, 1, 1), convolution(in_channels, out_channels - single - triple - quintuple, 1)
                ),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C', H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class DenseBlock(nn.Module):
    """Layers that each see all features before them (Huang et al., CVPR 2017, equation 2)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(inplace=False), nn.Conv2d(channels, GROWTH, 3, 1, 1, bias=False)
            )
            for channels in range(in_channels, in_channels + LAYERS * GROWTH, GROWTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C + LAYERS * GROWTH, H, W)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def vgg_stage(in_channels: int, out_channels: int) -> nn.Module:
    """Two 3x3 convolutions and a 2x2 maximum (Simonyan and Zisserman, ICLR 2015, table 1)."""
    return nn.Sequential(
        convolution(in_channels, out_channels, 3),
        convolution(out_channels, out_channels, 3),
        nn.MaxPool2d(2, ceil_mode=True),
    )


def googlenet_stage(in_channels: int, out_channels: int) -> nn.Module:
    """A 3x3 maximum of stride 2 and one inception block."""
    return nn.Sequential(nn.MaxPool2d(3, 2, 1), Inception(in_channels, out_channels))


def resnet_stage(in_channels: int, out_channels: int) -> nn.Module:
    """Two residual blocks, the first of stride 2."""
    return nn.Sequential(ResidualBlock(in_channels, out_channels, 2), ResidualBlock(out_channels, out_channels, 1))


def densenet_stage(in_channels: int, out_channels: int) -> nn.Module:
    """A 2x2 mean, a dense block, and a 1x1 convolution to the stage's width."""
    dense = in_channels + LAYERS * GROWTH
    return nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), DenseBlock(in_channels), convolution(dense, out_channels, 1))


class Family(Backbone):
    """A stem and stages of one kind.

    Parameters
    ----------
    widths
        Channels after each stage; the output stride is 2 to the power of their number.
    stage
        Makes a stage of stride 2 from the channels before and after it.
    steps
        Reach of a cell of a stage on each side, in cells of the previous stage.
    stem
        Whether the first stage is a 3x3 convolution of stride 2.
    """

    halo: int

    def __init__(
        self, widths: Sequence[int], stage: Callable[[int, int], nn.Module], steps: int, *, stem: bool
    ) -> None:
        super().__init__()
        first = convolution(3, widths[0], 3, 2) if stem else stage(3, widths[0])
        self.parts = nn.Sequential(first, *(stage(before, after) for before, after in pairwise(widths)))
        self.widths = tuple(widths)
        self.out_channels = widths[-1]
        self.stride = 2 ** len(widths)
        self.halo = (1 if stem else steps) + sum(steps * 2**index for index in range(1, len(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, 3, H, W) to (B, C, ceil(H/stride), ceil(W/stride))."""
        features: Tensor = self.parts(x)
        return features

    def stages(self) -> list[Stage]:
        """See `Backbone.stages`."""
        return [
            Stage(part, width, 2**number)
            for number, (part, width) in enumerate(zip(self.parts, self.widths, strict=True), 1)
        ]


def _googlenet(options: BackboneOptions) -> Family:
    """The maximum reaches 1 cell, the following 5x5 convolution 2 of twice the size.

    Raises
    ------
    UsageError : a width that is too small for the branches.
    """
    if min(options.widths) < FEWEST:
        raise UsageError(f"small-googlenet has four branches per stage; its widths must be at least {FEWEST}")
    return Family(options.widths, googlenet_stage, 5, stem=True)


VGG = BackboneFamily(lambda options: Family(options.widths, vgg_stage, 3, stem=False))
"""Two convolutions reach 2 cells, the maximum 1."""

GOOGLENET = BackboneFamily(_googlenet)

RESNET = BackboneFamily(lambda options: Family(options.widths, resnet_stage, 7, stem=True))
"""The first block reaches 3 cells, the second 2 of twice the size."""

DENSENET = BackboneFamily(lambda options: Family(options.widths, densenet_stage, 1 + 2 * LAYERS, stem=True))
"""The mean reaches 1 cell, each following layer 1 of twice the size."""
