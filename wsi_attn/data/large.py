"""Slides as inputs of a prediction. A coarse view that does not fit in memory is read in blocks where there is tissue.

Of such a slide only the tissue mask and a few numbers per attention cell are kept in memory.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.annotations.tissue import tissue_from_geojson
from wsi_attn.data.bags import LEAST_PRIOR, MIN_CELL_TISSUE, VIEW_PIXELS, Bag, collate, make_bag
from wsi_attn.data.prior import score_weights
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Frame, Region
from wsi_attn.models.base import BagBatch
from wsi_attn.slide import UInt8Array, paste
from wsi_attn.slides.view import read_block
from wsi_attn.threads import thread_limit
from wsi_attn.tissue.find import find_tissue, tissue_view
from wsi_attn.tissue.mask import raster_coverage
from wsi_attn.tissue.settings import TissueSettings

SAMPLE_BLOCKS, SAMPLE_SIDE = 32, 256
"""Number and side, in pixels of the coarse view, of the blocks sampled for colour: two million pixels."""

PART = 512
"""Side, in pixels of the coarse view, of the part that one thread reads at once."""


class BlockView:
    """Lazily read coarse view of a slide with the `shape` and slicing of an array.

    Attributes
    ----------
    shape
        (1, 3, H, W).
    damaged
        Regions in pixels of the view found so far that could not be decoded; they read as background.
    """

    def __init__(self, patches: SlidePatches) -> None:
        self._slide = patches.slide
        self._threads = patches.workers or thread_limit()
        self.frame = patches.coarse_frame
        self.shape = (1, 3, self.frame.size.height, self.frame.size.width)
        self.damaged: set[Region] = set()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, where: tuple[slice, ...]) -> torch.Tensor:
        """Return `view[:, :, rows, columns]`, uint8 (1, 3, rows, columns); `view[:, :]` is the whole view."""
        height, width = self.shape[2:]
        rows, columns = where[2:] or (slice(None), slice(None))
        top, bottom, _ = rows.indices(height)
        left, right, _ = columns.indices(width)
        pixels = self.read(Region(left, top, right - left, bottom - top))
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def read(self, region: Region) -> UInt8Array:
        """Read a region of the view in parallel parts, uint8 (height, width, 3)."""
        pixels = np.empty((region.height, region.width, 3), np.uint8)

        def read(part: Region) -> list[Region]:
            found, damaged = read_block(self._slide, self.frame.downsample_x, self.frame.downsample_y, part)
            paste(pixels, region, found, part)
            return damaged

        parts = list(region.split(PART, PART))
        with ThreadPoolExecutor(min(self._threads, len(parts))) as pool:
            for damaged in pool.map(read, parts):
                self.damaged.update(damaged)
        return pixels


@dataclass(frozen=True)
class SlideBag:
    """One slide as the input of a prediction, whatever its size.

    Attributes
    ----------
    patches
        The slide.
    stride
        Coarse pixels along a side of a cell.
    batch
        A batch that contains only this slide.
    tissue, frame
        bool (rows, columns) over the frame: what is looked at.
    fraction
        Share of the area that is tissue.
    unreadable
        Number of regions of the view of the mask that could not be decoded.
    view
        The coarse view if it is read in parts; None if the batch has it as a whole.
    whole
        The slide that the batch is made of; None if it is read in parts.
    """

    patches: SlidePatches
    stride: int
    batch: BagBatch
    tissue: NDArray[np.bool_]
    frame: Frame
    fraction: float
    unreadable: int
    view: BlockView | None = None
    whole: Bag | None = None

    @property
    def damaged(self) -> int:
        """Number of regions of the coarse view, of those read so far, that could not be decoded."""
        return self.unreadable + (len(self.view.damaged) if self.view else 0)

    def coverage(self, regions0: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the tissue share of level-0 regions (N, 4), x, y, width, height, float32 (N,)."""
        return raster_coverage(self.tissue, self.frame, self.patches.slide.info.size0, regions0)

    def without_damage(self) -> SlideBag | None:
        """Return a copy without the cells that touch regions found damaged since; None if no cell does."""
        valid, stride = self.batch.valid, self.stride
        left = valid.clone()
        for part in self.view.damaged if self.view else ():
            left[:, part.y // stride : -(-part.y1 // stride), part.x // stride : -(-part.x1 // stride)] = False
        return None if torch.equal(left, valid) else replace(self, batch=replace(self.batch, valid=left))

    def sample(self) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """Return coarse pixels across the tissue, uint8 (rows, columns, 3), and which are tissue, bool.

        These are the whole view, or one row of pixels from blocks of a view that is read in parts.
        """
        if self.view is None:
            return self.batch.coarse[:, :][0].permute(1, 2, 0).numpy(), self.tissue
        height, width = self.view.shape[2:]
        cells = np.argwhere(self.batch.valid[0].numpy())  # (n, 2), row and column
        chosen = cells[np.linspace(0, len(cells) - 1, min(SAMPLE_BLOCKS, len(cells))).astype(int)]
        pixels, tissue = [], []
        for row, column in (chosen * self.stride).tolist():
            top, left = max(0, min(row, height - SAMPLE_SIDE)), max(0, min(column, width - SAMPLE_SIDE))
            found = self.view.read(Region(left, top, min(SAMPLE_SIDE, width), min(SAMPLE_SIDE, height)))
            rows = np.arange(top, top + found.shape[0]) * self.tissue.shape[0] // height
            columns = np.arange(left, left + found.shape[1]) * self.tissue.shape[1] // width
            pixels.append(found.reshape(1, -1, 3))
            tissue.append(self.tissue[np.ix_(rows, columns)].reshape(1, -1))
        return np.concatenate(pixels, axis=1), np.concatenate(tissue, axis=1)


def is_large(patches: SlidePatches) -> bool:
    """Return whether the coarse view of a slide has more than `VIEW_PIXELS` pixels."""
    width, height = patches.extent
    return width * height > VIEW_PIXELS * patches.coarse_factor**2


def large_bag(
    patches: SlidePatches, stride: int, tissue: str, regions: Path | None = None, prior: str = "none"
) -> SlideBag:
    """Detect the tissue of a slide without reading its coarse view; parameters and errors as of `slide_bag`."""
    view = BlockView(patches)
    info, settings = patches.slide.info, TissueSettings(tissue)
    seen = tissue_view(patches.slide, settings, workers=patches.workers, progress=patches.progress)
    if regions is not None:
        found = tissue_from_geojson(regions, seen.frame, info.size0, origin=info.origin, readable=seen.readable)
    else:
        found = find_tissue(patches.slide, settings, view=seen, progress=patches.progress)
    height, width = (-(-extent // stride) for extent in view.shape[2:])
    share = found.coverage(_cells0(view.frame, stride, height, width)).reshape(height, width)
    enough = share >= MIN_CELL_TISSUE
    weights = share if prior != "none" else None
    scored = score_weights(patches.slide, found.frame, found.mask.shape) if prior == "scores" else None
    if scored is not None:
        weights = cv2.resize(
            (scored * found.mask).astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_AREA
        )
    batch = BagBatch(
        coarse=view,
        valid=torch.from_numpy(enough if enough.any() else share > 0)[None],
        extent=torch.tensor([patches.extent], dtype=torch.int64),
        sources=(patches,),
        prior=None if weights is None else torch.from_numpy(np.maximum(weights, LEAST_PRIOR).astype(np.float32))[None],
        progress=patches.progress,
    )
    return SlideBag(patches, stride, batch, found.mask, found.frame, found.fraction, len(seen.unreadable), view)


def _cells0(frame: Frame, stride: int, height: int, width: int) -> NDArray[np.float64]:
    """Return the cells in row-major order as level-0 regions, (h * w, 4)."""
    extent = stride * frame.downsample_x, stride * frame.downsample_y
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    sides = np.broadcast_to(extent, (len(rows), 2))
    return np.concatenate([np.stack([columns * extent[0], rows * extent[1]], axis=1), sides], axis=1)


def slide_bag(
    patches: SlidePatches, stride: int, tissue: str, regions: Path | None = None, prior: str = "none"
) -> SlideBag:
    """Return a slide as the input of a prediction; further parameters and errors are those of `data.bags.make_bag`.

    Parameters
    ----------
    stride
        Side of a cell in coarse pixels.
    """
    if is_large(patches):
        return large_bag(patches, stride, tissue, regions, prior)
    bag = make_bag(patches, tissue, regions, prior)
    batch = replace(collate([bag], stride), progress=patches.progress)
    frame, unreadable = patches.coarse_frame, len(bag.unreadable)
    return SlideBag(patches, stride, batch, bag.tissue, frame, bag.fraction, unreadable, whole=bag)
