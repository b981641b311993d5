"""Numba kernels: plain loops over uint8 tiles, one pass over memory, no temporaries.

Importing this module loads Numba, so `scores.py` imports it when a score is first asked for. Each kernel has a
plain NumPy twin in the tests that it must equal, compiled and interpreted (`NUMBA_DISABLE_JIT=1`).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

CHROMA, BRIGHTNESS, DARKNESS = 0, 1, 2


@numba.njit(cache=True, nogil=True)
def count_tissue(tile: NDArray[np.uint8], width: int, height: int, measure: int, threshold: int) -> int:
    """Pixels of one tile (H, W, 3), in its first `height` rows and `width` columns, with measure > threshold."""
    count = 0
    for row in range(height):
        for column in range(width):
            red, green, blue = int(tile[row, column, 0]), int(tile[row, column, 1]), int(tile[row, column, 2])
            value = max(red, green, blue)
            if measure == CHROMA:
                value -= min(red, green, blue)
            elif measure == DARKNESS:
                value = 255 - value
            if value > threshold:
                count += 1
    return count


@numba.njit(cache=True, nogil=True)
def tissue_serial(
    tiles: NDArray[np.uint8], valid: NDArray[np.int64], measure: int, threshold: int, out: NDArray[np.float32]
) -> None:
    """Fill `out` (N,) with the tissue share of each tile's valid pixels, on the calling thread, without the GIL."""
    for index in range(tiles.shape[0]):
        width, height = valid[index, 0], valid[index, 1]
        area = width * height
        if area > 0:
            out[index] = count_tissue(tiles[index], width, height, measure, threshold) / area


@numba.njit(cache=True, parallel=True)
def tissue_parallel(
    tiles: NDArray[np.uint8], valid: NDArray[np.int64], measure: int, threshold: int, out: NDArray[np.float32]
) -> None:
    """`tissue_serial` on all cores, a tile at a time."""
    for index in numba.prange(tiles.shape[0]):
        width, height = valid[index, 0], valid[index, 1]
        area = width * height
        if area > 0:
            out[index] = count_tissue(tiles[index], width, height, measure, threshold) / area
