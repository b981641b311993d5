"""Instances of a thresholded attention map: connected components and the squares around them.

Fan et al., MICCAI 2020 (see `models.deep_attention`), threshold the map into a binary mask and crop its content.
Scaling, connectivity, squares and ranking are a reconstruction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Component:
    """Connected cells of a mask.

    Attributes
    ----------
    cells
        int64 (n,), flat indices in reading order.
    top, bottom, left, right
        Bounding rows and columns, ends excluded.
    """

    cells: NDArray[np.int64]
    top: int
    bottom: int
    left: int
    right: int


def hot_mask(attention: NDArray[np.float64], valid: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """Return the cells whose attention, scaled to 0..1 over the valid cells, reaches a threshold.

    A_t = (a_t - min a) / (max a - min a),   M_t = [A_t >= tau]

    Scaling makes tau independent of the number of cells.

    Parameters
    ----------
    attention
        float64 (h, w).
    valid
        bool (h, w).
    threshold
        tau, above 0, at most 1.

    Returns
    -------
    bool (h, w), within `valid`. For a constant map, the first valid cell.
    """
    mask = np.zeros(valid.shape, np.bool_)
    if not valid.any():
        return mask
    values = attention[valid]
    low, high = values.min(), values.max()
    if low == high:
        mask.flat[valid.argmax()] = True
    else:
        mask[valid] = (values - low) / (high - low) >= threshold
    return mask


def components(mask: NDArray[np.bool_]) -> list[Component]:
    """Return the 8-connected components of a mask, ordered by their first cell in reading order."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    flat = labels.reshape(-1)
    cells = flat.nonzero()[0]
    grouped = cells[np.argsort(flat[cells], kind="stable")]
    parts = np.split(grouped, np.cumsum(np.bincount(flat[cells], minlength=count)[1:])[:-1]) if count > 1 else []
    found = [
        Component(part.astype(np.int64), int(top), int(top + height), int(left), int(left + width))
        for part, (left, top, width, height, _) in zip(parts, boxes[1:], strict=True)
    ]
    return sorted(found, key=lambda component: int(component.cells[0]))


def heaviest(found: list[Component], attention: NDArray[np.float64], count: int) -> list[Component]:
    """Return the components with the most attention, by decreasing mass; ties in reading order."""
    flat = attention.reshape(-1)
    return sorted(found, key=lambda component: (-flat[component.cells].sum(), component.cells[0]))[:count]


def crop_around(
    component: Component, cell: int, extent: tuple[int, int], smallest: int, largest: int
) -> tuple[int, int, int]:
    """Return the square of pixels to read for a component.

    The bounding box is enlarged to a square of at least `smallest` and shifted into the field, not shrunk at its
    borders.

    Parameters
    ----------
    component
        In cells.
    cell
        Side of a cell in pixels. Cells start at the top-left corner; the last ones may extend beyond the border.
    extent
        Width and height of the field in pixels.
    smallest, largest
        Bounds of the side. A component larger than `largest` or than the field is read around its
        centre. A field smaller than `smallest` is padded by its source.

    Returns
    -------
    x and y of the top left corner, and the side.
    """
    width, height = extent
    left, right = component.left * cell, min(component.right * cell, width)
    top, bottom = component.top * cell, min(component.bottom * cell, height)
    side = max(min(max(right - left, bottom - top), largest, width, height), smallest)
    x, y = math.floor((left + right - side) / 2), math.floor((top + bottom - side) / 2)
    return max(0, min(x, width - side)), max(0, min(y, height - side)), side
