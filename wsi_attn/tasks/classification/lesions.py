"""Lesions of the rare classes in training images, and their location on the cells of the map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn.annotations.boxes import FoundBoxes, as_text
from wsi_attn.annotations.regions import region_mask
from wsi_attn.data.bags import cell_areas, cell_means
from wsi_attn.data.manifest import Row
from wsi_attn.errors import ManifestError, UsageError
from wsi_attn.registry import unknown_name
from wsi_attn.slide import Slide
from wsi_attn.tasks.classification.care import LesionCells


def rare_labels(rows: Sequence[Row], labels: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the rare classes of a training set.

    Parameters
    ----------
    names
        Rare classes given by the user; if empty, classes with less than half of an even share of the rows, 1 / (2 C).

    Raises
    ------
    UnknownNameError : a given class does not exist.
    UsageError : no class was given and none is rare.
    """
    for name in names:
        if name not in labels:
            raise unknown_name("rare class", name, labels)
    if names:
        return tuple(names)
    counts = Counter(row.label for row in rows)
    rare = tuple(label for label in labels if counts[label] * 2 * len(labels) < len(rows))
    if not rare:
        raise UsageError(
            "--care: no class has less than half of an even share of the training rows; name them with --rare-classes"
        )
    return rare


def lesion_rows(
    rows: Sequence[Row],
    rare: Sequence[str],
    open_slide: Callable[[Row], Slide],
    find: Callable[[Slide], FoundBoxes] | None = None,
) -> dict[int, Row]:
    """Return the training rows of rare classes that have a lesion, by number; see `annotations.regions.region_mask`.

    Parameters
    ----------
    open_slide
        Returns the slide of a row and keeps it open.
    find
        Finds boxes in the image; None uses the boxes or mask of the row.

    Raises
    ------
    ManifestError : no row has boxes, or boxes or a mask are invalid, see `region_mask`.
    """
    wanted = [row for row in rows if row.label in rare]
    found = {}
    for row in wanted:
        slide = open_slide(row)
        marked = row if find is None else replace(row, boxes=as_text(find(slide).boxes), mask=None)
        region = region_mask(marked, slide.info.size0, (1, 1), slide.info.origin)
        if region is not None and region.any():
            found[row.number] = marked
    if not found:
        advice = "nothing was found on them; give boxes" if find else "fill `boxes` or `mask`, or have boxes found"
        raise ManifestError(f"--care: no training row of {', '.join(rare)} has boxes: {advice}")
    return found


def shuffled_lesions(lesions: dict[int, Row], seed: int) -> dict[int, Row]:
    """Return rows with lesions, each under the number of another one: the control whose boxes lie on other images.

    Raises
    ------
    UsageError : there is only one.
    """
    if len(lesions) < 2:
        raise UsageError("--care-boxes shuffled: only one image has a lesion; choose random")
    order = np.random.default_rng(seed).permutation(list(lesions)).tolist()
    return {number: lesions[other] for number, other in zip(order, [*order[1:], order[0]], strict=True)}


def moved_region(region: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return a region, bool (rows, columns), shifted to a random place where it lies inside the raster."""
    rows, columns = np.nonzero(region)
    if not len(rows):
        return region
    top = int(generator.integers(-rows.min(), region.shape[0] - rows.max()))
    left = int(generator.integers(-columns.min(), region.shape[1] - columns.max()))
    moved = np.zeros_like(region)
    moved[rows + top, columns + left] = True
    return moved


def resized_region(region: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a region to another raster (rows, columns). Every touched pixel counts, so that no region vanishes."""
    if region.shape == shape:
        return region
    sums = np.asarray(cv2.integral(region.astype(np.uint8)))  # (rows + 1, columns + 1)
    (top, bottom), (left, right) = (_spans(*sizes) for sizes in zip(region.shape, shape, strict=True))
    rows = sums[bottom] - sums[top]
    return np.asarray(rows[:, right] - rows[:, left] > 0)


def _spans(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and one past the last of the `old` pixels that each of the `new` pixels of an axis touches."""
    index = np.arange(new)
    return index * old // new, -(-(index + 1) * old // new)


def lesion_cells(
    regions: Sequence[NDArray[np.bool_] | None],
    shapes: Sequence[tuple[int, ...]],
    valid: Tensor,
    stride: int,
    distance: float,
) -> LesionCells:
    """Return the cell weights of a batch.

    in_t is proportional to the pixels of the cell that lie in the lesion, out_t to those outside of it times
    1 + delta d_t, with d_t the city-block distance to the nearest cell that the lesion touches, in cells.

    Parameters
    ----------
    regions
        For each image bool (rows, columns), coarse pixels of the lesion; None where it has none.
    shapes
        Rows and columns of each image's coarse view.
    valid
        bool (B, h, w), cells that may be looked at; the weights lie there.
    stride
        Coarse pixels per cell.
    distance
        delta.
    """
    inner, outer = torch.zeros(valid.shape), torch.zeros(valid.shape)
    for index, region in enumerate(regions):
        if region is None or not region.any():
            continue
        share = cell_means(region, stride)
        areas = cell_areas(region.shape, stride)
        away = cv2.distanceTransform((share == 0).astype(np.uint8), cv2.DIST_L1, cv2.DIST_MASK_3)
        height, width = share.shape
        allowed = valid[index, :height, :width].cpu().numpy()
        inside = _summing_to_one(share * areas * allowed)
        outside = _summing_to_one((1 - share) * areas * (1 + distance * away) * allowed)
        if inside is not None and outside is not None:  # a lesion on glass or over the whole image is uninformative
            inner[index, :height, :width] = torch.from_numpy(inside)
            outer[index, :height, :width] = torch.from_numpy(outside)
    grids = tuple((-(-shape[0] // stride), -(-shape[1] // stride)) for shape in shapes)
    return LesionCells(inner, outer, valid, grids)


def _summing_to_one(weights: NDArray[Any]) -> NDArray[np.float32] | None:
    total = weights.sum()
    return (weights / total).astype(np.float32) if total > 0 else None
