"""Small residual networks that train from scratch on a few hundred images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
            if stride != 1 or in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C', H/stride, W/stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A stem of stride 2 and one residual block of stride 2 for each further width.

    Parameters
    ----------
    widths
        Channels after the stem and after each block; the output stride is 2 to the power of their number.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(before, after, 2) for before, after in pairwise(widths)))
        self.out_channels = widths[-1]
        self.stride: int = 2 ** len(widths)
        # A block at input step s sees s pixels to each side by its first convolution and 2s by its second.
        self.halo = 1 + sum(3 * 2**index for index in range(1, len(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, 3, H, W) to (B, C, ceil(H/stride), ceil(W/stride))."""
        features: Tensor = self.blocks(self.stem(x))
        return features
