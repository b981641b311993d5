"""Named scores over many tiles at once: what each means, its range and unit, and one function that computes it.

A score judges full-resolution pixels; which tiles are kept because of it is decided in `tiling`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UsageError
from wsi_attn.registry import unknown_name

MEASURE_CODES = {"chroma": 0, "brightness": 1, "darkness": 2}
"""Measures of a pixel, by the names that tissue masks use, as the kernels know them."""


@dataclass(frozen=True)
class ScoreInfo:
    """What a score means; written beside its values in a store."""

    name: str
    low: float
    high: float
    unit: str
    description: str


SCORES = {
    "tissue": ScoreInfo(
        "tissue", 0.0, 1.0, "fraction of area", "share of the tile's pixels inside the slide that are tissue"
    ),
}
"""All scores, by name."""


def tissue_scores(
    tiles: NDArray[np.uint8],
    valid: NDArray[np.int64],
    measure: str,
    threshold: int,
    *,
    parallel: bool = True,
) -> NDArray[np.float32]:
    """Share of each tile's pixels that are tissue, by the rule *measure > threshold* of a tissue mask.

    Parameters
    ----------
    tiles
        uint8 (N, H, W, 3), RGB.
    valid
        int64 (N, 2): width and height of the part of each tile that lies inside the slide, from its top left.
    measure, threshold
        The rule, as `TissueMask.measure` and `TissueMask.threshold` say it.
    parallel
        On all cores; without it on the calling thread, the GIL released, for callers that have threads of
        their own. Not every threading layer of Numba may be entered from several threads at once.

    Returns
    -------
    float32 (N,), 0 to 1; 0 for a tile without a valid pixel, (0,) for no tiles; never NaN.

    Raises
    ------
    UsageError : shapes or types other than stated, or a valid part larger than the tile.
    """
    if measure not in MEASURE_CODES:
        raise unknown_name("tissue measure", measure, MEASURE_CODES)
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
        raise UsageError(f"Tiles must be uint8 (N, H, W, 3), not {tiles.dtype} {tiles.shape}")
    extents = np.ascontiguousarray(valid, np.int64)
    if extents.shape != (len(tiles), 2) or (extents < 0).any() or (extents > (tiles.shape[2], tiles.shape[1])).any():
        raise UsageError(f"Valid widths and heights of {len(tiles)} tiles must be (N, 2) and fit into the tiles")
    out = np.zeros(len(tiles), np.float32)
    if len(tiles):
        from wsi_attn.scores import kernels  # Numba takes a second to load, and most commands never score

        kernel = kernels.tissue_parallel if parallel else kernels.tissue_serial
        kernel(np.ascontiguousarray(tiles), extents, MEASURE_CODES[measure], threshold, out)
    return out
