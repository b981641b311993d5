"""Named tile scores: their definitions, ranges and units, and one function that computes them.

A score describes full-resolution pixels; `tiling` decides which tiles to keep.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UsageError
from wsi_attn.registry import unknown_name

MEASURE_CODES = {"chroma": 0, "brightness": 1, "darkness": 2}
"""Codes of pixel measures in the kernels, by their names in tissue masks."""


@dataclass(frozen=True)
class ScoreInfo:
    """Description of a score; stored beside its values."""

    name: str
    low: float
    high: float
    unit: str
    description: str


HAEMATOXYLIN, EOSIN = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105)
"""Optical density of the stains in red, green and blue: Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291."""

MAX_DENSITY = math.log10(256)
"""Optical density of black."""


def _unmixing() -> NDArray[np.float64]:
    """Weights (3 channels, 2 stains) that turn optical densities into concentrations of the two stains."""
    stains = np.array([HAEMATOXYLIN, EOSIN])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return np.linalg.pinv(stains)  # equivalent to a third vector orthogonal to both


UNMIXING = _unmixing()

WEIGHTS = {"optical_density": np.full(3, 1 / 3), "haematoxylin": UNMIXING[:, 0], "eosin": UNMIXING[:, 1]}
"""Scores that are sums of the mean densities of red, green and blue."""


def _stain_score(name: str, column: int) -> ScoreInfo:
    weights = UNMIXING[:, column] * MAX_DENSITY
    low, high = float(weights.clip(max=0).sum()), float(weights.clip(min=0).sum())
    return ScoreInfo(name, low, high, "concentration", f"mean concentration of {name}, unmixed from optical density")


SCORES = {
    score.name: score
    for score in (
        ScoreInfo(
            "tissue", 0.0, 1.0, "fraction of area", "share of the tile's pixels inside the slide that are tissue"
        ),
        ScoreInfo("focus", 0.0, 1020.0**2, "grey values squared", "variance of the Laplacian of grey"),
        ScoreInfo(
            "sharpness", 0.0, 255.0**2, "grey values squared", "autocorrelation of grey at 1 less that at 2 pixels"
        ),
        ScoreInfo("entropy", 0.0, 8.0, "bits", "Shannon entropy of grey"),
        ScoreInfo("optical_density", 0.0, MAX_DENSITY, "absorbance", "mean optical density over pixels and channels"),
        _stain_score("haematoxylin", 0),
        _stain_score("eosin", 1),
        ScoreInfo("pen", 0.0, 1.0, "fraction of area", "share of the tile that has the colour of marker ink"),
        ScoreInfo("fold", 0.0, 1.0, "fraction of area", "share of the tile as dark and saturated as folded tissue"),
    )
}
"""All scores by name, in order of computation and listing."""

_GROUPS = {
    "tissue": 1, "focus": 2, "sharpness": 64, "entropy": 4, "optical_density": 8, "haematoxylin": 8, "eosin": 8,
    "pen": 16, "fold": 32,
}  # fmt: skip
"""Sums that the kernels compute for each score, as bits."""


def parse_names(text: str) -> tuple[str, ...]:
    """Parse `all`, `none` or comma-separated score names; each name once, in the order of `SCORES`.

    Raises
    ------
    UnknownNameError : a name is not a score.
    """
    if text.strip() in ("all", "none"):
        return tuple(SCORES) if text.strip() == "all" else ()
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
    return tuple(name for name in SCORES if name in wanted)


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
    measure, threshold = rule
    if measure not in MEASURE_CODES:
        raise unknown_name("tissue measure", measure, MEASURE_CODES)
    for name in names:
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
        raise UsageError(f"Tiles must be uint8 (N, H, W, 3), not {tiles.dtype} {tiles.shape}")
    extents = np.ascontiguousarray(valid, np.int64)
    if extents.shape != (len(tiles), 2) or (extents < 0).any() or (extents > (tiles.shape[2], tiles.shape[1])).any():
        raise UsageError(f"Valid widths and heights of {len(tiles)} tiles must have shape (N, 2) and fit the tiles")
    if not len(tiles) or not names:
        return {name: np.zeros(len(tiles), np.float32) for name in names}
    from wsi_attn.scores import kernels  # Numba takes a second to load, and most commands never compute scores

    sums = np.zeros((len(tiles), kernels.SUMS))
    groups = functools.reduce(operator.or_, (_GROUPS[name] for name in names))
    rows = np.ascontiguousarray(tiles).reshape(len(tiles), tiles.shape[1], 3 * tiles.shape[2])
    arguments = rows, extents, groups, MEASURE_CODES[measure], int(threshold), sums
    if parallel:
        with kernels.limited_threads():
            kernels.sum_parallel(*arguments)
    else:
        kernels.sum_serial(*arguments)
    return _finish(sums, extents, names)


def _finish(
    sums: NDArray[np.float64], extents: NDArray[np.int64], names: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Scores (N,) from the sums of the kernels (N, SUMS); few calls, since batches of tiles may be small."""
    from wsi_attn.scores import kernels

    columns = {
        "tissue": kernels.COUNT_TISSUE,
        "focus": kernels.SQUARES_LAPLACE,
        "sharpness": kernels.VOLLATH,
        "entropy": kernels.ENTROPY_BITS,
        "pen": kernels.COUNT_PEN,
        "fold": kernels.COUNT_FOLD,
    }
    width, height = extents[:, 0], extents[:, 1]
    pixels = np.maximum(width * height, 1)
    cells = np.maximum(((width + 1) >> 1) * ((height + 1) >> 1), 1)
    areas = {"tissue": pixels, "focus": pixels, "sharpness": 4 * pixels, "entropy": 1, "pen": cells, "fold": cells}
    # -log10((v + 1) / 256) of each channel, averaged; 0 where nothing is valid
    logs = sums[:, kernels.LOG2_RED : kernels.LOG2_BLUE + 1] / cells[:, None]
    densities = (8 - logs) * (math.log10(2) * ((width > 0) & (height > 0)))[:, None]
    found = {}
    for name in names:
        if name in WEIGHTS:  # not a matrix product: its rounding could depend on the number of tiles
            values = sum(densities[:, channel] * WEIGHTS[name][channel] for channel in range(3))
        else:
            values = sums[:, columns[name]] / areas[name]
        found[name] = np.asarray(values, np.float32)
    for name in {"sharpness", "optical_density"} & found.keys():
        np.maximum(found[name], 0, out=found[name])
    return found


def warm_up(names: Sequence[str]) -> None:
    """Load the scoring kernels, compiling them if needed, if any score is requested."""
    if names:
        score_tiles(np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2), 2), names, ("chroma", 0), parallel=False)
