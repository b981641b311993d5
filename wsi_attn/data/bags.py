"""Bags: one slide's coarse view, the cells that may be looked at, the source of its patches; and batches of bags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.contract import BACKGROUND, Progress, UInt8Array, no_progress
from wsi_attn.data.augment import AugmentedPatches, random_colour, random_symmetry
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Region
from wsi_attn.models.contract import BagBatch, PatchSource
from wsi_attn.tissue.detect import detect_tissue

MIN_CELL_TISSUE = 0.1
"""A cell of the attention map may be looked at where at least this share of it is tissue."""


@dataclass(frozen=True)
class Bag:
    """One slide as a network sees it.

    `view` is uint8 (rows, columns, 3), coarse; `tissue` bool of the same shape; `extent` width and height in
    high-resolution pixels; `unreadable` level-0 regions of the coarse view that could not be decoded.
    """

    view: UInt8Array
    tissue: NDArray[np.bool_]
    extent: tuple[int, int]
    source: PatchSource
    unreadable: tuple[Region, ...] = ()

    def augmented(self, generator: np.random.Generator, colour: float) -> Bag:
        """The same slide in another orientation and colour."""
        change = random_colour(generator, colour) if colour > 0 else None
        source = AugmentedPatches(self.source, self.extent, random_symmetry(generator), change)
        tissue = source.symmetry.apply(self.tissue[..., None].view(np.uint8))[..., 0].view(np.bool_)
        return Bag(source.view(self.view), tissue, source.extent, source, self.unreadable)


def make_bag(patches: SlidePatches, tissue: str, progress: Progress = no_progress) -> Bag:
    """Read a slide's coarse view and find its tissue.

    Parameters
    ----------
    tissue
        Method of detection; "none" takes the whole image.
    """
    view = patches.coarse_view(progress)
    mask = view.readable
    if tissue != "none":
        found = detect_tissue(view.pixels, view.frame, patches.slide.info.mpp, readable=view.readable, method=tissue)
        mask = found.mask
    return Bag(view.pixels, mask, patches.extent, patches, view.unreadable)


def valid_cells(tissue: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Cells of `stride` by `stride` coarse pixels that hold enough tissue.

    bool (ceil(rows/stride), ceil(columns/stride)). The share is of the part of the cell inside the image. Where tissue
    exists but no cell holds enough, those that hold any count.
    """
    rows, columns = tissue.shape
    height, width = -(-rows // stride), -(-columns // stride)
    padded = np.zeros((height * stride, width * stride), np.float32)
    padded[:rows, :columns] = tissue
    inside = np.zeros_like(padded)
    inside[:rows, :columns] = 1
    share = cv2.resize(padded, (width, height), interpolation=cv2.INTER_AREA)
    share = share / cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA)
    enough = share >= MIN_CELL_TISSUE
    return np.asarray(enough if enough.any() else share > 0, np.bool_)


def collate(bags: Sequence[Bag], stride: int, generator: torch.Generator | None = None) -> BagBatch:
    """A batch of bags, padded to the largest; `stride` is that of the coarse network."""
    height = max(bag.view.shape[0] for bag in bags)
    width = max(bag.view.shape[1] for bag in bags)
    coarse = np.full((len(bags), height, width, 3), BACKGROUND, np.uint8)
    valid = np.zeros((len(bags), -(-height // stride), -(-width // stride)), np.bool_)
    for index, bag in enumerate(bags):
        rows, columns = bag.view.shape[:2]
        coarse[index, :rows, :columns] = bag.view
        cells = valid_cells(bag.tissue, stride)
        valid[index, : cells.shape[0], : cells.shape[1]] = cells
    return BagBatch(
        coarse=torch.from_numpy(coarse).permute(0, 3, 1, 2),
        valid=torch.from_numpy(valid),
        extent=torch.tensor([bag.extent for bag in bags], dtype=torch.int64),
        sources=tuple(bag.source for bag in bags),
        generator=generator,
    )
