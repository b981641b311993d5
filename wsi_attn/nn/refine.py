"""Refinement of a feature grid by channel attention followed by spatial attention.

Letters: B images, D features, h x w cells. Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018,
equations 2 and 3, with a residual around both. Means and maxima are taken over valid
cells, so that padding and glass do not affect other cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

REDUCTION = 16
"""Hidden units of the channel attention are D over this."""

SIDE = 7
"""Of the convolution that weighs places."""


class ChannelAttention(nn.Module):
    """M_c = sigmoid( MLP(mean F) + MLP(max F) )."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(4, width // REDUCTION)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def __call__(self, features: Tensor, allowed: Tensor) -> Tensor:
        """`forward`, with its type."""
        found: Tensor = super().__call__(features, allowed)
        return found

    def forward(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Float (B, D, h, w) and bool (B, h, w) to (B, D, 1, 1), 0 to 1."""
        cells = allowed[:, None]
        mean = masked_mean(features, allowed)
        largest = features.masked_fill(~cells, torch.finfo(features.dtype).min).amax(dim=(2, 3))
        largest = largest * allowed.flatten(1).any(dim=1, keepdim=True)
        return torch.sigmoid(self.mlp(mean) + self.mlp(largest))[..., None, None]


class SpatialAttention(nn.Module):
    """M_s = sigmoid( conv7x7( [mean_c F ; max_c F] ) )."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, SIDE, padding=SIDE // 2)

    def __call__(self, features: Tensor, allowed: Tensor) -> Tensor:
        """`forward`, with its type."""
        found: Tensor = super().__call__(features, allowed)
        return found

    def forward(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Float (B, D, h, w) and bool (B, h, w) to (B, 1, h, w), 0 to 1."""
        both = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(both * allowed[:, None]))


class Refine(nn.Module):
    """F + M_s * (M_c * F)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels, self.places = ChannelAttention(width), SpatialAttention()

    def __call__(self, features: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, with its type."""
        found: tuple[Tensor, Tensor] = super().__call__(features, allowed)
        return found

    def forward(self, features: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Refined features, float (B, D, h, w), and M_s, float (B, h, w)."""
        refined = self.channels(features, allowed) * features
        places = self.places(refined, allowed)
        return features + places * refined, places[:, 0]


def masked_mean(features: Tensor, allowed: Tensor) -> Tensor:
    """Mean over the allowed cells, float (B, D, h, w) and bool (B, h, w) to (B, D); 0 without allowed cells."""
    weights = allowed[:, None].to(features.dtype)
    total: Tensor = (features * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1)
    return total
