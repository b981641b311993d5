"""Which training images show a rare class, where their lesions lie, and how these lie on the cells of the map."""

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

from wsi_attn.contract import Slide
from wsi_attn.data.bags import cell_areas, cell_means
from wsi_attn.data.boxes import as_text, salient_boxes
from wsi_attn.data.manifest import Row
from wsi_attn.data.regions_of import region_mask
from wsi_attn.errors import ManifestError, UsageError
from wsi_attn.registry import unknown_name
from wsi_attn.train.care import LesionCells

SOURCES = ("none", "boxes", "saliency")
"""Where boxes come from: nowhere, the manifest, or `data.boxes`."""


def rare_labels(rows: Sequence[Row], labels: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The rare classes of a training part.

    Parameters
    ----------
    names
        Those that are named; with none, classes with less than half of an even share of the rows, 1 / (2 C).

    Raises
    ------
    UnknownNameError : a named class that there is not.
    UsageError : none was named, and none is rare.
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
            "--care: no class has less than half of an even share of the training rows; name some by --rare-classes"
        )
    return rare


def lesion_rows(
    rows: Sequence[Row], rare: Sequence[str], source: str, open_slide: Callable[[Row], Slide]
) -> dict[int, Row]:
    """Training rows of rare classes whose lesion is known, by number; `regions_of.region_mask` says where it lies.

    Parameters
    ----------
    source
        "boxes" for the boxes or mask that a row gives, "saliency" for boxes that are found, whatever the row gives.
    open_slide
        Gives a row's slide, and keeps it.

    Raises
    ------
    ManifestError : not one row has any; boxes or a mask that are wrong, see `region_mask`.
    """
    wanted = [row for row in rows if row.label in rare]
    found = {}
    for row in wanted:
        marked = row if source == "boxes" else _with_salient_boxes(row, open_slide(row))
        if marked.boxes or marked.mask:
            region = region_mask(marked, open_slide(row).info.size0, (1, 1))
            if region is not None and region.any():
                found[row.number] = marked
    if not found:
        advice = {
            "boxes": "fill `boxes` or `mask`, or use --care saliency",
            "saliency": "nothing stands out on them; give boxes and use --care boxes",
        }
        raise ManifestError(f"--care {source}: no training row of {', '.join(rare)} has boxes: {advice[source]}")
    return found


def _with_salient_boxes(row: Row, slide: Slide) -> Row:
    return replace(row, boxes=as_text(salient_boxes(slide).boxes), mask=None)


def resized_region(region: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A region on a raster (rows, columns) of another size; pixels that it touches count, so that none is lost."""
    if region.shape == shape:
        return region
    sums = np.asarray(cv2.integral(region.astype(np.uint8)))  # (rows + 1, columns + 1)
    (top, bottom), (left, right) = (_spans(*sizes) for sizes in zip(region.shape, shape, strict=True))
    rows = sums[bottom] - sums[top]
    return np.asarray(rows[:, right] - rows[:, left] > 0)


def _spans(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel that each of `new` pixels of an axis touches, of `old`, and one past the last."""
    index = np.arange(new)
    return index * old // new, -(-(index + 1) * old // new)


def lesion_cells(
    regions: Sequence[NDArray[np.bool_] | None], valid: Tensor, stride: int, distance: float
) -> LesionCells:
    """Weights of the cells of a batch.

    in_t is proportional to the pixels of the cell that lie in the lesion, out_t to those outside of it times
    1 + delta d_t, with d_t the city-block distance to the nearest cell that the lesion touches, in cells.

    Parameters
    ----------
    regions
        For each image bool (rows, columns), coarse pixels of the lesion; None where it has none.
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
        if inside is not None and outside is not None:  # a lesion on glass, or all over, says nothing
            inner[index, :height, :width] = torch.from_numpy(inside)
            outer[index, :height, :width] = torch.from_numpy(outside)
    return LesionCells(inner, outer, valid)


def _summing_to_one(weights: NDArray[Any]) -> NDArray[np.float32] | None:
    total = weights.sum()
    return (weights / total).astype(np.float32) if total > 0 else None
