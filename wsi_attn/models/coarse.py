"""The coarse view of a slide as features: normalised, and encoded block by block where it is large."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_attn.models.base import BagBatch
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.filters import RADIUS, smooth

BLOCK_PIXELS = 512
"""Side, in coarse pixels, of the blocks in which a large view is encoded: bounds memory on slides."""


class Normalise(nn.Module):
    """uint8 pixels as a network's input: smoothed, mean 0, deviation 1.

    Parameters
    ----------
    mean, std
        Of the channels, 0 to 1.
    smoothing
        Deviation of a Gaussian in pixels; 0 changes nothing.
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
    """Features of a part of the cells: float (B, D, rows, columns) and where they lie on the grid."""

    rows: slice
    columns: slice
    features: Tensor


def encode_blocks(
    backbone: Backbone, normalise: Normalise, coarse: Tensor, valid: Tensor | None = None
) -> Iterator[Block]:
    """Features of coarse views, block by block.

    In evaluation a large view is encoded in blocks, each with the margin that the convolutions see, so the result
    equals that of one pass while memory stays flat. A backbone without a known halo encodes every view whole: memory
    then grows with the view.

    Parameters
    ----------
    coarse
        uint8 (B, 3, H, W); only its shape and slices of it are taken.
    valid
        bool (B, h, w): of a large view only the parts around these cells are looked at; all of it by default.
    """
    stride = backbone.stride
    height, width = (-(-extent // stride) for extent in coarse.shape[2:])
    side = max(1, BLOCK_PIXELS // stride)
    if backbone.training or backbone.halo is None or max(height, width) <= side:
        whole = backbone(normalise(coarse[:, :]))
        yield Block(slice(0, height), slice(0, width), whole.to(normalise.mean.dtype))
        return
    margin = -(-(backbone.halo + RADIUS) // stride)
    wanted = np.ones((height, width), np.bool_) if valid is None else valid.any(dim=0).cpu().numpy()[:height, :width]
    for cells in occupied_blocks(wanted, side):
        (top, bottom), (left, right) = ((part.start, part.stop) for part in cells)
        first_row, first_column = max(0, top - margin), max(0, left - margin)
        rows = slice(first_row * stride, (bottom + margin) * stride)
        columns = slice(first_column * stride, (right + margin) * stride)
        block = backbone(normalise(coarse[:, :, rows, columns])).to(normalise.mean.dtype)
        inner = block[:, :, top - first_row : bottom - first_row, left - first_column : right - first_column]
        yield Block(*cells, inner)


def occupied_blocks(wanted: NDArray[np.bool_], side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each block of `side` cells that holds wanted cells, bool (h, w)."""
    height, width = wanted.shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            # Not trimmed to the cells: blocks of one size take the memory of the one before, others leave gaps in it.
            if wanted[top : top + side, left : left + side].any():
                yield slice(top, min(height, top + side)), slice(left, min(width, left + side))


def views(batch: BagBatch, *, training: bool) -> Iterator[tuple[slice, Tensor]]:
    """Which slides are encoded together, and their coarse views; in evaluation padding changes no feature."""
    if training or batch.coarse_size is None:
        yield slice(0, len(batch.sources)), batch.coarse
        return
    # One by one: a convolution beside padding sees other values than beside an edge.
    for index, (width, height) in enumerate(batch.coarse_size.tolist()):
        yield slice(index, index + 1), batch.coarse[index : index + 1, :, :height, :width]


def allowed_cells(batch: BagBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cells that may be looked at, bool (B, h, w), and the log of their prior, float32 (B, h, w), 0 without one."""
    valid = batch.valid.to(device)
    if batch.prior is None:
        return valid, torch.zeros(valid.shape, device=device)
    prior = batch.prior.to(device, torch.float32)
    valid = valid & (prior > 0)
    return valid, torch.where(valid, prior, 1.0).log()
