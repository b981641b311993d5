"""Area resampling of uint8 RGB by any factor and any sub-pixel offset, without seams between blocks."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_attn.slide import UInt8Array

STRIP = 32
"""Output rows per matrix product; small, so that the band of the weight matrix fills it."""


def resample_area(
    pixels: UInt8Array, offset: tuple[float, float], scale: tuple[float, float], size: tuple[int, int]
) -> UInt8Array:
    """Average `pixels` over each cell of a regular grid.

    Parameters
    ----------
    pixels
        uint8 (rows, columns, 3). Cells beyond the edge average the pixels inside.
    offset
        Grid origin (x, y) in pixels of `pixels`; may be fractional.
    scale
        Cell extent (x, y) in pixels of `pixels`, each at least 1; below 1 pixels are interpolated linearly.
    size
        Width and height of the output.

    Returns
    -------
    uint8 (height, width, 3), rounded to nearest.
    """
    (x, y), (scale_x, scale_y), (width, height) = offset, scale, size
    if min(scale) < 1:
        centre = np.array([[scale_x, 0, x + (scale_x - 1) / 2], [0, scale_y, y + (scale_y - 1) / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(pixels, centre, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))
    if _whole(x, y, scale_x, scale_y) and _inside(pixels, offset, scale, size):
        window = pixels[int(y) : int(y + height * scale_y), int(x) : int(x + width * scale_x)]
        return np.asarray(cv2.resize(window, size, interpolation=cv2.INTER_AREA))
    columns = _weights(x, scale_x, width, pixels.shape[1])
    output = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):
        rows = min(STRIP, height - top)
        first = min(max(0, math.floor(y + top * scale_y)), pixels.shape[0] - 1)
        last = max(first + 1, min(pixels.shape[0], math.ceil(y + (top + rows) * scale_y)))
        strip = pixels[first:last].astype(np.float32)
        vertical = _weights(y + top * scale_y - first, scale_y, rows, last - first)
        reduced = np.tensordot(vertical, strip, axes=(1, 0))  # (rows, columns_in, 3)
        output[top : top + rows] = np.rint(np.tensordot(reduced, columns, axes=(1, 1)).transpose(0, 2, 1))
    return output


def halve(pixels: UInt8Array) -> UInt8Array:
    """Mean of each 2 x 2 square, rounded half up; an odd last row or column is repeated."""
    rows, columns = pixels.shape[:2]
    even = cv2.copyMakeBorder(pixels, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)
    size = (even.shape[1] // 2, even.shape[0] // 2)
    return np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), np.uint8)


def _weights(origin: float, scale: float, count: int, extent: int) -> NDArray[np.float32]:
    """Return the share of each source pixel in each cell, (count, extent); rows sum to 1."""
    starts = origin + scale * np.arange(count)[:, None]
    pixels = np.arange(extent)[None]
    overlap = np.minimum(starts + scale, pixels + 1) - np.maximum(starts, pixels)
    overlap = np.clip(overlap, 0, None)
    total = overlap.sum(axis=1, keepdims=True)
    nearest = np.clip(np.floor(starts[:, 0]), 0, extent - 1).astype(int)
    overlap[total[:, 0] == 0, nearest[total[:, 0] == 0]] = 1  # A cell entirely outside takes the edge pixel.
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), np.float32)


def _whole(*values: float) -> bool:
    return all(float(value).is_integer() for value in values)


def _inside(pixels: UInt8Array, offset: tuple[float, float], scale: tuple[float, float], size: tuple[int, int]) -> bool:
    x, y = offset
    return x >= 0 and y >= 0 and x + size[0] * scale[0] <= pixels.shape[1] and y + size[1] * scale[1] <= pixels.shape[0]
