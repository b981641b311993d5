"""Registry of the tile scores, and one function that computes them.

A score describes full-resolution pixels; `tiling` decides which tiles to keep.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import PluginError, UsageError
from wsi_attn.registry import Registry, unknown_name
from wsi_attn.scores.fused import MEASURE_CODES, FusedScore, score_fused
from wsi_attn.scores.score import Score, TileBatch

SCORES: Registry[FusedScore | Score] = Registry(
    "score",
    "wsi_attn.scores",
    {
        "tissue": "wsi_attn.scores.fused:TISSUE",
        "focus": "wsi_attn.scores.fused:FOCUS",
        "sharpness": "wsi_attn.scores.fused:SHARPNESS",
        "entropy": "wsi_attn.scores.fused:ENTROPY",
        "optical_density": "wsi_attn.scores.fused:OPTICAL_DENSITY",
        "haematoxylin": "wsi_attn.scores.fused:HAEMATOXYLIN_SCORE",
        "eosin": "wsi_attn.scores.fused:EOSIN_SCORE",
        "pen": "wsi_attn.scores.fused:PEN",
        "fold": "wsi_attn.scores.fused:FOLD",
    },
    lambda member: isinstance(member, Score),
)
"""All scores by name, in order of computation and listing."""


def parse_names(text: str) -> tuple[str, ...]:
    """Parse `all`, `none` or comma-separated score names; each name once, in the order of `SCORES`.

    `all` are the built-in scores, so that an installed package does not change the stores that are written.

    Raises
    ------
    UnknownNameError : a name is not a score.
    PluginError : a score of a package that is broken.
    """
    if text.strip() in ("all", "none"):
        return SCORES.built_in if text.strip() == "all" else ()
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        SCORES.get(name)
    others = (name for name in wanted if name not in SCORES.built_in)
    return tuple(dict.fromkeys((*(name for name in SCORES.built_in if name in wanted), *others)))


def score_tiles(
    tiles: NDArray[np.uint8],
    valid: NDArray[np.int64],
    names: Sequence[str],
    rule: tuple[str, int],
    *,
    parallel: bool = True,
) -> dict[str, NDArray[np.float32]]:
    """Compute the requested scores of tiles in one pass. `docs/scores.md` has the formulas.

    Parameters
    ----------
    tiles
        uint8 (N, H, W, 3), RGB.
    valid
        int64 (N, 2): width and height of the part of each tile that lies inside the slide, from its top left.
    names
        Keys of `SCORES`.
    rule
        The tissue rule, *measure > threshold*, as in `TissueMask.measure` and `TissueMask.threshold`.
    parallel
        Use up to `thread_limit` threads. Otherwise run on the calling thread with the GIL released, for callers
        with their own threads. Not every threading layer of Numba may be entered from several threads at once.

    Returns
    -------
    float32 (N,) for each name, within its range in `SCORES`; 0 for a tile without a valid pixel; never NaN.

    Raises
    ------
    UnknownNameError : a score or measure is unknown.
    UsageError : shapes or dtypes differ from the above, or a valid part is larger than the tile.
    """
    if rule[0] not in MEASURE_CODES:
        raise unknown_name("tissue measure", rule[0], MEASURE_CODES)
    scores = {name: SCORES.get(name) for name in names}
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
        raise UsageError(f"Tiles must be uint8 (N, H, W, 3), not {tiles.dtype} {tiles.shape}")
    extents = np.ascontiguousarray(valid, np.int64)
    if extents.shape != (len(tiles), 2) or (extents < 0).any() or (extents > (tiles.shape[2], tiles.shape[1])).any():
        raise UsageError(f"Valid widths and heights of {len(tiles)} tiles must have shape (N, 2) and fit the tiles")
    if not len(tiles) or not names:
        return {name: np.zeros(len(tiles), np.float32) for name in names}
    batch = TileBatch(tiles, extents, rule)
    fused = {name: score for name, score in scores.items() if isinstance(score, FusedScore)}
    found = score_fused(fused, batch, parallel=parallel) if fused else {}
    for name, score in scores.items():
        if isinstance(score, Score):
            found[name] = _computed(name, score, batch)
    return found


def _computed(name: str, score: Score, batch: TileBatch) -> NDArray[np.float32]:
    values = np.asarray(score.compute(batch), np.float32)
    if values.shape != (len(batch.pixels),) or not np.isfinite(values).all():
        raise PluginError(
            f"The score {name} returned values of shape {values.shape} for {len(batch.pixels)} tiles, or values that "
            "are not finite; update or uninstall its package"
        )
    return values


def warm_up(names: Sequence[str]) -> None:
    """Load the scoring kernels, compiling them if needed, if any score is requested."""
    if names:
        score_tiles(np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2), 2), names, ("chroma", 0), parallel=False)
