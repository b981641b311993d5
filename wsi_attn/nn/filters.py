"""Fixed filters on images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RADIUS = 3
"""Pixels to each side that the smoothing looks at; enough for deviations up to 1."""


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing with replicated borders.

    Parameters
    ----------
    images
        float (B, C, H, W).
    sigma
        Standard deviation in pixels, 0 to 1; 0 returns the input.

    Returns
    -------
    float (B, C, H, W).
    """
    if sigma == 0:
        return images
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    channels = images.shape[1]
    kernel = (weights / weights.sum()).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    rows = functional.conv2d(functional.pad(images, (RADIUS, RADIUS, 0, 0), mode="replicate"), kernel, groups=channels)
    padded = functional.pad(rows, (0, 0, RADIUS, RADIUS), mode="replicate")
    return functional.conv2d(padded, kernel.transpose(2, 3), groups=channels)
