"""Encoding of coarse views: normalisation, and block-wise encoding of large views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.base import BagBatch, CoarseView
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.filters import RADIUS, smooth
from wsi_attn.slide import Progress, no_progress

BLOCK_PIXELS = 512
"""Side, in coarse pixels, of the blocks in which a large view is encoded: bounds memory on slides."""


STRIP = 256
"""Rows of a large view that are averaged at a time."""


class Normalise(nn.Module):
    """Convert uint8 pixels to network input: smoothed, zero mean, unit standard deviation.

    Parameters
    ----------
    mean, std
        Of the channels, 0 to 1.
    smoothing
        Standard deviation of a Gaussian in pixels; 0 disables smoothing.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to float of the same shape, on the network's device."""
        light = smooth(pixels.to(self.mean.device, self.mean.dtype), self.smoothing)
        return (light - self.mean) / self.std


class Block(NamedTuple):
    """Features of a block of cells: float (B, D, rows, columns), and its position on the grid."""

    rows: slice
    columns: slice
    features: Tensor


def encode_blocks(
    backbone: Backbone,
    normalise: Normalise,
    coarse: CoarseView,
    valid: Tensor | None = None,
    progress: Progress = no_progress,
) -> Iterator[Block]:
    """Yield the features of coarse views block by block.

    During evaluation a large view is encoded in blocks with a margin of the receptive field, so that the result equals
    that of a single pass in bounded memory. A backbone with unknown halo encodes views as a whole, and memory grows
    with the view.

    Parameters
    ----------
    coarse
        uint8 (B, 3, H, W); only its shape and slices of it are taken.
    valid
        bool (B, h, w): only the parts of a large view around these cells are encoded; all of it by default.
    """
    stride = backbone.stride
    height, width = (-(-extent // stride) for extent in coarse.shape[2:])
    side = max(1, BLOCK_PIXELS // stride)
    if backbone.training or backbone.halo is None or max(height, width) <= side:
        whole = backbone.pooled_maps(normalise(coarse[:, :]))
        yield Block(slice(0, height), slice(0, width), whole.to(normalise.mean.dtype))
        return
    if backbone.memory is not None:
        backbone.memory.expect(None)  # the names are of whole views, not of blocks
    margin = -(-(backbone.halo + RADIUS) // stride)
    wanted = np.ones((height, width), np.bool_) if valid is None else valid.any(dim=0).cpu().numpy()[:height, :width]
    blocks = list(occupied_blocks(wanted, side))
    for done, cells in enumerate(blocks):
        progress(done, len(blocks), "coarse view")
        (top, bottom), (left, right) = ((part.start, part.stop) for part in cells)
        first_row, first_column = max(0, top - margin), max(0, left - margin)
        rows = slice(first_row * stride, (bottom + margin) * stride)
        columns = slice(first_column * stride, (right + margin) * stride)
        block = backbone.pooled_maps(normalise(coarse[:, :, rows, columns])).to(normalise.mean.dtype)
        inner = block[:, :, top - first_row : bottom - first_row, left - first_column : right - first_column]
        yield Block(*cells, inner)
    progress(len(blocks), len(blocks), "coarse view")


def occupied_blocks(wanted: NDArray[np.bool_], side: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of each block of `side` cells that contains wanted cells, bool (h, w)."""
    height, width = wanted.shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            # Not trimmed to the cells: blocks of equal size reuse memory, other sizes fragment it.
            if wanted[top : top + side, left : left + side].any():
                yield slice(top, min(height, top + side)), slice(left, min(width, left + side))


def views(batch: BagBatch, *, training: bool) -> Iterator[tuple[slice, CoarseView]]:
    """Return which slides are encoded together, and their coarse views; during evaluation padding changes no
    feature.
    """
    if training or batch.coarse_size is None:
        yield slice(0, len(batch.sources)), batch.coarse
        return
    # One by one, because a convolution sees different values next to padding than at a border.
    for index, (width, height) in enumerate(batch.coarse_size.tolist()):
        yield slice(index, index + 1), batch.coarse[index : index + 1, :, :height, :width]


def allowed_cells(batch: BagBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the valid cells, bool (B, h, w), and the log of their prior, float32 (B, h, w), 0 without one."""
    valid = batch.valid.to(device)
    if batch.prior is None:
        return valid, torch.zeros(valid.shape, device=device)
    prior = batch.prior.to(device, torch.float32)
    valid = valid & (prior > 0)
    return valid, torch.where(valid, prior, 1.0).log()


def resized(view: CoarseView, size: int) -> Tensor:
    """uint8 (B, 3, H, W) to float (B, 3, size, size); averaged where it becomes smaller.

    Views more than four times as large are first averaged over whole cells, a few rows at a time, so that memory stays
    bounded; only the shape and slices of the view are used.
    """
    height, width = view.shape[2:]
    factor = min(height, width) // (2 * size)
    if factor < 2:
        pixels = view[:, :].float()
    else:
        rows = factor * max(1, STRIP // factor)
        pixels = torch.cat(
            [
                functional.avg_pool2d(view[:, :, top : top + rows, :].float(), factor, ceil_mode=True)
                for top in range(0, height, rows)
            ],
            dim=2,
        )
    if pixels.shape[2:] == (size, size):
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
