"""Bags (coarse view, valid cells and patch source of one slide) and batches of bags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.annotations.tissue import tissue_from_geojson
from wsi_attn.data.augment import (
    SYMMETRIES,
    AugmentedPatches,
    ColourChange,
    CroppedPatches,
    Symmetry,
    random_colour,
    random_span,
    random_symmetry,
)
from wsi_attn.data.blocks import uncached
from wsi_attn.data.prior import score_weights
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Region
from wsi_attn.models.base import BagBatch, PatchSource
from wsi_attn.slide import BACKGROUND, UInt8Array
from wsi_attn.tissue.find import find_tissue
from wsi_attn.tissue.settings import TissueSettings

MIN_CELL_TISSUE = 0.1
"""Minimum tissue share of a valid attention cell."""

LEAST_PRIOR = 0.01
"""Minimum prior of a valid cell, so that tile scores cannot veto the network."""

VIEW_PIXELS = 8_000_000
"""Maximum pixels of a coarse view that is held as a whole; larger ones are read in parts, see `data.large`."""


@dataclass(frozen=True)
class Bag:
    """One slide as network input.

    `view` is uint8 (rows, columns, 3), coarse; `tissue` bool of the same shape; `extent` width and height in
    high-resolution pixels; `unreadable` level-0 regions of the coarse view that could not be decoded; `weights` the
    prior of each coarse pixel (see `data.prior`), bool, or uint8 in 1/255; None for equal weights; `lesion` bool, the
    annotated finding; None if unknown; `fraction` the share of tissue in the area of an unaugmented slide.
    """

    view: UInt8Array
    tissue: NDArray[np.bool_]
    extent: tuple[int, int]
    source: PatchSource
    unreadable: tuple[Region, ...] = ()
    weights: NDArray[np.bool_] | UInt8Array | None = None
    lesion: NDArray[np.bool_] | None = None
    fraction: float = 1.0

    def random_crop(self, generator: np.random.Generator, most: float, coarse_factor: int) -> Bag:
        """Crop to a random window, each side shorter by at most the share `most`; the whole slide if the window
        has no tissue.

            `coarse_factor` is the number of high-resolution pixels per coarse pixel along a side.
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
        """Return the slide with a random colour change and, if `turn`, a random orientation."""
        change = random_colour(generator, colour) if colour > 0 else None
        return self.turned(random_symmetry(generator) if turn else SYMMETRIES[0], change)

    def turned(self, symmetry: Symmetry, change: ColourChange | None = None) -> Bag:
        """Return the slide in another orientation, and in other colours if there is a change."""
        source = AugmentedPatches(self.source, self.extent, symmetry, change)

        def turned(raster: NDArray[Any]) -> NDArray[Any]:
            return source.symmetry.apply(raster[..., None].view(np.uint8))[..., 0].view(raster.dtype)

        weights, lesion = (None if raster is None else turned(raster) for raster in (self.weights, self.lesion))
        tissue = turned(self.tissue)
        return Bag(source.view(self.view), tissue, source.extent, source, self.unreadable, weights, lesion)


def make_bag(patches: SlidePatches, tissue: str, regions: Path | None = None, prior: str = "none") -> Bag:
    """Read the coarse view of a slide and detect its tissue.

    Parameters
    ----------
    tissue
        Detection method; "none" uses the whole image.
    regions
        GeoJSON file of boxes and polygons, for example from QuPath, that replaces detection: everything outside them
        is ignored.
    prior
        "tissue", "scores" or "none"; see `data.prior`.

    Raises
    ------
    TissueError : the regions cannot be read, or none overlaps the slide.
    """
    view = patches.coarse_view()
    slide = patches.slide
    if regions is not None:
        found = tissue_from_geojson(
            regions, view.frame, slide.info.size0, origin=slide.info.origin, readable=view.readable
        )
        mask, fraction = found.mask, found.fraction
    elif tissue == "none":
        mask, fraction = view.readable, float(view.readable.mean())
    else:
        found = find_tissue(uncached(slide), TissueSettings(tissue), workers=patches.workers, progress=patches.progress)
        mask, fraction = found.on(view.frame) & view.readable, found.fraction
    weights: NDArray[np.bool_] | UInt8Array | None = mask if prior != "none" else None
    if prior == "scores":
        scored = score_weights(slide, view.frame, mask.shape)
        weights = mask if scored is None else scored * mask
    return Bag(view.pixels, mask, patches.extent, patches, view.unreadable, weights, fraction=fraction)


def valid_cells(tissue: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Return the cells of `stride` by `stride` coarse pixels with enough tissue.

    bool (ceil(rows/stride), ceil(columns/stride)). The share refers to the part of the cell inside the image. If
    there is tissue but no cell has enough, all cells with any tissue are valid.
    """
    share = cell_means(tissue, stride)
    enough = share >= MIN_CELL_TISSUE
    return np.asarray(enough if enough.any() else share > 0, np.bool_)


def cell_means(raster: NDArray[np.bool_] | UInt8Array, stride: int) -> NDArray[np.float64]:
    """Return the mean of a raster over the part of each cell inside the image: (ceil(rows/stride),
    ceil(columns/stride)).
    """
    rows, columns = raster.shape
    height, width = -(-rows // stride), -(-columns // stride)
    padded = np.zeros((height * stride, width * stride), raster.dtype)
    padded[:rows, :columns] = raster
    sums = padded.reshape(height, stride, width, stride).sum(axis=(1, 3), dtype=np.int64)
    return np.asarray(sums / cell_areas(raster.shape, stride))


def cell_areas(shape: tuple[int, ...], stride: int) -> NDArray[np.int64]:
    """Return the pixels of each cell inside a raster (rows, columns): (ceil(rows/stride), ceil(columns/stride))."""
    return np.outer(_inside(shape[0], stride), _inside(shape[1], stride))


def prior_cells(bag: Bag, stride: int) -> NDArray[np.float32]:
    """Return the prior of each cell, float32 (h, w), `LEAST_PRIOR` to 1; all 1 if the bag has no weights."""
    if bag.weights is None:
        return np.ones([-(-extent // stride) for extent in bag.tissue.shape], np.float32)
    means = cell_means(bag.weights, stride) / (1 if bag.weights.dtype == np.bool_ else 255)
    return np.maximum(means, LEAST_PRIOR).astype(np.float32)


def _inside(extent: int, stride: int) -> NDArray[np.int64]:
    """Return the pixels of each cell along one axis inside the image."""
    return np.minimum(stride, extent - stride * np.arange(-(-extent // stride)))


def collate(bags: Sequence[Bag], stride: int, generator: torch.Generator | None = None) -> BagBatch:
    """Collate bags, padded to the largest; `stride` is that of the coarse network."""
    height = max(bag.view.shape[0] for bag in bags)
    width = max(bag.view.shape[1] for bag in bags)
    if len(bags) == 1:
        coarse = bags[0].view[None]  # The view of a slide is large; avoid a copy.
    else:
        coarse = np.full((len(bags), height, width, 3), BACKGROUND, np.uint8)
        for index, bag in enumerate(bags):
            coarse[index, : bag.view.shape[0], : bag.view.shape[1]] = bag.view
    valid = np.zeros((len(bags), -(-height // stride), -(-width // stride)), np.bool_)
    prior = np.zeros(valid.shape, np.float32)
    for index, bag in enumerate(bags):
        cells = valid_cells(bag.tissue, stride)
        valid[index, : cells.shape[0], : cells.shape[1]] = cells
        prior[index, : cells.shape[0], : cells.shape[1]] = prior_cells(bag, stride)
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
    """Return width and height of the views, int64 (B, 2); None if all sizes are equal."""
    sizes = [(bag.view.shape[1], bag.view.shape[0]) for bag in bags]
    return torch.tensor(sizes, dtype=torch.int64) if len(set(sizes)) > 1 else None
