"""Prior weight of each location, independent of the network.

The prior of a cell multiplies its attention: a_t is proportional to prior_t exp(e_t). "tissue" is the share of the
cell that is tissue. "scores" weighs every tile of a store's grid by

    w = tissue (1 - pen) (1 - fold) focus / (focus + m),    m the median focus of the tiles that hold tissue,

scaled so that the best tile has weight 1; a cell has the mean weight of its tiles, which lowers the weight of ink,
folds and blur. Missing scores are left out of the product. Inputs that are not stores, or have no grid or no
tissue score, fall back to "tissue".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_attn.data.blocks import uncached
from wsi_attn.errors import UnknownNameError
from wsi_attn.geometry import Frame, Region
from wsi_attn.slide import Slide, UInt8Array
from wsi_attn.store.tile_store import TileStore

HOLDS_TISSUE = 0.1
"""Minimum tissue share of a tile whose focus counts for the median."""

GRID = "default"
"""Preferred grid of a store; otherwise the first is used."""


def score_weights(slide: Slide, frame: Frame, shape: tuple[int, int]) -> UInt8Array | None:
    """Return the weight of every pixel of a coarse view from the tile scores of a store.

    Parameters
    ----------
    frame, shape
        Placement of the view on level 0, and its rows and columns.

    Returns
    -------
    uint8 (rows, columns), weights in 1/255; 0 outside tiles. None if there are no usable scores.
    """
    store = uncached(slide)
    if not isinstance(store, TileStore) or not store.grids():
        return None
    grid = GRID if GRID in store.grids() else store.grids()[0]
    try:
        weights = tile_weights({name: store.scores(grid, name) for name in _known(store, grid)})
    except UnknownNameError:
        return None
    info = store.grid(grid)
    width, height = (max(1, round(side)) for side in info.extent0)
    painted = np.zeros(shape, np.uint8)
    for (x, y), weight in zip(store.coords(grid).tolist(), weights.tolist(), strict=True):
        region = frame.region_from0(Region(x, y, width, height))
        patch = painted[max(0, region.y) : region.y1, max(0, region.x) : region.x1]
        np.maximum(patch, np.uint8(round(255 * weight)), out=patch)  # Overlapping tiles: the better one wins.
    return painted


def tile_weights(scores: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the tile weights defined above, float64 (N,), 0 to 1; unreadable tiles have weight 0.

    Raises
    ------
    UnknownNameError : the tissue score is missing.
    """
    if "tissue" not in scores:
        raise UnknownNameError("the grid has no tissue score")
    weights = scores["tissue"].astype(np.float64)
    for name in ("pen", "fold"):
        if name in scores:
            weights = weights * (1 - scores[name])
    if "focus" in scores:
        focus = scores["focus"].astype(np.float64)
        sharp = focus[(scores["tissue"] >= HOLDS_TISSUE) & np.isfinite(focus)]
        median = float(np.median(sharp)) if len(sharp) else 0.0
        weights = weights * np.divide(focus, focus + median, out=np.ones_like(focus), where=focus + median > 0)
    weights = np.nan_to_num(weights, nan=0.0).clip(0, None)
    return np.asarray(weights / weights.max() if weights.max(initial=0) > 0 else weights)


def _known(store: TileStore, grid: str) -> list[str]:
    folder = store.path / "tiles" / grid / "scores"
    return [name for name in ("tissue", "pen", "fold", "focus") if (folder / name).is_dir()]
