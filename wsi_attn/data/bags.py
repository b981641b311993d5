"""Bags: one slide's coarse view, the cells that may be looked at, the source of its patches; and batches of bags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.augment import (
    AugmentedPatches,
    CroppedPatches,
    Symmetry,
    random_colour,
    random_span,
    random_symmetry,
)
from wsi_attn.data.prior import score_weights
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Frame, Mpp, Region, Size
from wsi_attn.models.base import BagBatch, PatchSource
from wsi_attn.slide import BACKGROUND, Progress, UInt8Array, no_progress
from wsi_attn.slides.view import View
from wsi_attn.tissue.detect import detect_tissue
from wsi_attn.tissue.polygons import tissue_from_geojson

MIN_CELL_TISSUE = 0.1
"""A cell of the attention map may be looked at where at least this share of it is tissue."""

LEAST_PRIOR = 0.01
"""Least prior of a cell that may be looked at: what tiles are scored by must not forbid what the network finds."""

TISSUE_PIXELS = 8_000_000
"""Largest view that tissue is looked for on; 16 µm/px for the largest slide that fits a scanner."""


@dataclass(frozen=True)
class Bag:
    """One slide as a network sees it.

    `view` is uint8 (rows, columns, 3), coarse; `tissue` bool of the same shape; `extent` width and height in
    high-resolution pixels; `unreadable` level-0 regions of the coarse view that could not be decoded; `weights` the
    prior of each coarse pixel (see `data.prior`), bool, or uint8 in 1/255; None weighs all alike; `lesion` bool, where
    the finding is; None where that is not known.
    """

    view: UInt8Array
    tissue: NDArray[np.bool_]
    extent: tuple[int, int]
    source: PatchSource
    unreadable: tuple[Region, ...] = ()
    weights: NDArray[np.bool_] | UInt8Array | None = None
    lesion: NDArray[np.bool_] | None = None

    def random_crop(self, generator: np.random.Generator, most: float, coarse_factor: int) -> Bag:
        """A random window of the slide, each side shorter by at most the share `most`; all of it where the window
        would hold no tissue.

        `coarse_factor` is the high-resolution pixels per coarse pixel, along a side.
        """
        rows, columns = (random_span(extent, most, generator) for extent in self.tissue.shape)
        if not self.tissue[rows, columns].any():
            return self
        corner = columns.start * coarse_factor, rows.start * coarse_factor
        far = columns.stop * coarse_factor, rows.stop * coarse_factor
        width, height = (min(end, extent) - start for start, end, extent in zip(corner, far, self.extent, strict=True))
        weights = None if self.weights is None else self.weights[rows, columns]
        lesion = None if self.lesion is None else self.lesion[rows, columns]
        source = CroppedPatches(self.source, corner)
        view, tissue = self.view[rows, columns], self.tissue[rows, columns]
        return Bag(view, tissue, (width, height), source, self.unreadable, weights, lesion)

    def augmented(self, generator: np.random.Generator, colour: float, *, turn: bool = True) -> Bag:
        """The same slide in another colour, and unless it may not `turn` in another orientation."""
        change = random_colour(generator, colour) if colour > 0 else None
        symmetry = random_symmetry(generator) if turn else Symmetry(False, False, False)
        source = AugmentedPatches(self.source, self.extent, symmetry, change)

        def turned(raster: NDArray[Any]) -> NDArray[Any]:
            return source.symmetry.apply(raster[..., None].view(np.uint8))[..., 0].view(raster.dtype)

        weights, lesion = (None if raster is None else turned(raster) for raster in (self.weights, self.lesion))
        tissue = turned(self.tissue)
        return Bag(source.view(self.view), tissue, source.extent, source, self.unreadable, weights, lesion)


def make_bag(
    patches: SlidePatches,
    tissue: str,
    progress: Progress = no_progress,
    regions: Path | None = None,
    prior: str = "none",
) -> Bag:
    """Read a slide's coarse view and find its tissue.

    Parameters
    ----------
    tissue
        Method of detection; "none" takes the whole image.
    regions
        GeoJSON of boxes and polygons, drawn in QuPath say, that take the place of detection: nothing outside of them
        is looked at.
    prior
        One of `data.prior.PRIORS`.

    Raises
    ------
    TissueError : the regions cannot be read, or none of them lies on the slide.
    """
    view = patches.coarse_view(progress)
    progress(0, 1, "finding tissue")
    mask = view.readable
    if regions is not None:
        mask = tissue_from_geojson(
            regions, view.frame, patches.slide.info.size0, origin=patches.slide.info.origin, readable=view.readable
        ).mask
    elif tissue != "none":
        mask = _find_tissue(view, patches.slide.info.mpp, tissue)
    weights: NDArray[np.bool_] | UInt8Array | None = mask if prior != "none" else None
    if prior == "scores":
        scored = score_weights(patches.slide, view.frame, mask.shape)
        weights = mask if scored is None else scored * mask
    return Bag(view.pixels, mask, patches.extent, patches, view.unreadable, weights)


def _find_tissue(view: View, mpp: Mpp | None, method: str) -> NDArray[np.bool_]:
    """Tissue of a view, found on a reduced copy where the view is large: a mask needs no fine detail."""
    factor = max(1, math.ceil(math.sqrt(view.readable.size / TISSUE_PIXELS)))
    if factor == 1:
        return detect_tissue(view.pixels, view.frame, mpp, readable=view.readable, method=method).mask
    frame = view.frame
    size = Size(-(-frame.size.width // factor), -(-frame.size.height // factor))
    # Not exactly `factor` where it does not divide the view: the reduced frame spans just what the view spans.
    reduced = Frame(
        size, frame.downsample_x * frame.size.width / size.width, frame.downsample_y * frame.size.height / size.height
    )
    pixels = cv2.resize(view.pixels, size, interpolation=cv2.INTER_AREA)
    readable = cv2.resize(view.readable.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).view(np.bool_)
    found = detect_tissue(pixels, reduced, mpp, readable=readable, method=method).mask
    enlarged = cv2.resize(found.view(np.uint8), tuple(frame.size), interpolation=cv2.INTER_NEAREST)
    return np.asarray(enlarged.view(np.bool_) & view.readable)


def valid_cells(tissue: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Cells of `stride` by `stride` coarse pixels that hold enough tissue.

    bool (ceil(rows/stride), ceil(columns/stride)). The share is of the part of the cell inside the image. Where tissue
    exists but no cell holds enough, those that hold any count.
    """
    share = cell_means(tissue, stride)
    enough = share >= MIN_CELL_TISSUE
    return np.asarray(enough if enough.any() else share > 0, np.bool_)


def cell_means(raster: NDArray[np.bool_] | UInt8Array, stride: int) -> NDArray[np.float64]:
    """Mean of a raster over the part of each cell inside the image: (ceil(rows/stride), ceil(columns/stride))."""
    rows, columns = raster.shape
    height, width = -(-rows // stride), -(-columns // stride)
    padded = np.zeros((height * stride, width * stride), raster.dtype)
    padded[:rows, :columns] = raster
    sums = padded.reshape(height, stride, width, stride).sum(axis=(1, 3), dtype=np.int64)
    return np.asarray(sums / cell_areas(raster.shape, stride))


def cell_areas(shape: tuple[int, ...], stride: int) -> NDArray[np.int64]:
    """Pixels of each cell that lie inside a raster (rows, columns): (ceil(rows/stride), ceil(columns/stride))."""
    return np.outer(_inside(shape[0], stride), _inside(shape[1], stride))


def prior_cells(bag: Bag, stride: int) -> NDArray[np.float32]:
    """Prior of each cell, float32 (h, w): `LEAST_PRIOR` to 1; 1 everywhere where the bag has no weights."""
    if bag.weights is None:
        return np.ones([-(-extent // stride) for extent in bag.tissue.shape], np.float32)
    means = cell_means(bag.weights, stride) / (1 if bag.weights.dtype == np.bool_ else 255)
    return np.maximum(means, LEAST_PRIOR).astype(np.float32)


def _inside(extent: int, stride: int) -> NDArray[np.int64]:
    """Pixels of each cell along one axis that lie inside the image."""
    return np.minimum(stride, extent - stride * np.arange(-(-extent // stride)))


def collate(bags: Sequence[Bag], stride: int, generator: torch.Generator | None = None) -> BagBatch:
    """A batch of bags, padded to the largest; `stride` is that of the coarse network."""
    height = max(bag.view.shape[0] for bag in bags)
    width = max(bag.view.shape[1] for bag in bags)
    if len(bags) == 1:
        coarse = bags[0].view[None]  # a slide's view is large: no copy
    else:
        coarse = np.full((len(bags), height, width, 3), BACKGROUND, np.uint8)
        for index, bag in enumerate(bags):
            coarse[index, : bag.view.shape[0], : bag.view.shape[1]] = bag.view
    valid = np.zeros((len(bags), -(-height // stride), -(-width // stride)), np.bool_)
    for index, bag in enumerate(bags):
        cells = valid_cells(bag.tissue, stride)
        valid[index, : cells.shape[0], : cells.shape[1]] = cells
    prior = np.zeros(valid.shape, np.float32)
    for index, bag in enumerate(bags):
        cell_prior = prior_cells(bag, stride)
        prior[index, : cell_prior.shape[0], : cell_prior.shape[1]] = cell_prior
    return BagBatch(
        coarse=torch.from_numpy(coarse).permute(0, 3, 1, 2),
        valid=torch.from_numpy(valid),
        extent=torch.tensor([bag.extent for bag in bags], dtype=torch.int64),
        sources=tuple(bag.source for bag in bags),
        generator=generator,
        coarse_size=_padded_sizes(bags),
        prior=torch.from_numpy(prior) if any(bag.weights is not None for bag in bags) else None,
    )


def _padded_sizes(bags: Sequence[Bag]) -> torch.Tensor | None:
    """int64 (B, 2), width and height of the views; None where all are of one size."""
    sizes = [(bag.view.shape[1], bag.view.shape[0]) for bag in bags]
    return torch.tensor(sizes, dtype=torch.int64) if len(set(sizes)) > 1 else None
