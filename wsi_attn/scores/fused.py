"""The built-in scores, whose sums the Numba kernels compute together in one pass over the pixels."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_attn.scores import sums as of
from wsi_attn.scores.score import TileBatch

MEASURE_CODES = {"chroma": 0, "brightness": 1, "darkness": 2}
"""Codes of pixel measures in the kernels, by their names in tissue masks."""

Values = NDArray[np.float64]


class Sums:
    """What the kernels sum over the pixels of N tiles.

    Few calls, since batches of tiles may be small.

    Attributes
    ----------
    columns
        float64 (N, `sums.COLUMNS`).
    valid
        int64 (N, 2), as in `TileBatch`.
    pixels, cells
        int64 (N,): valid pixels and valid cells of 2 x 2 pixels of each tile, at least 1.
    """

    def __init__(self, columns: Values, valid: NDArray[np.int64]) -> None:
        self.columns, self.valid = columns, valid
        width, height = valid[:, 0], valid[:, 1]
        self.pixels = np.maximum(width * height, 1)
        self.cells = np.maximum(((width + 1) >> 1) * ((height + 1) >> 1), 1)

    @cached_property
    def densities(self) -> Values:
        """Mean optical density of red, green and blue, float64 (N, 3); 0 where nothing is valid."""
        logs = self.columns[:, of.LOG2_RED : of.LOG2_BLUE + 1] / self.cells[:, None]
        seen = (self.valid[:, 0] > 0) & (self.valid[:, 1] > 0)
        return np.asarray((8 - logs) * (math.log10(2) * seen)[:, None])  # -log10((v + 1) / 256), averaged

    def density(self, weights: Values) -> Values:
        """Weighted sum of `densities`, float64 (N,)."""
        # not a matrix product: its rounding could depend on the number of tiles
        return np.asarray(sum(self.densities[:, channel] * weights[channel] for channel in range(3)))


@dataclass(frozen=True)
class FusedScore:
    """A score whose sums the kernels compute together with those of others.

    Attributes
    ----------
    low, high, unit, description
        See `Score`.
    group
        Sums that it needs, one of the bits of `sums`.
    finish
        The score, float (N,), from the sums.
    """

    low: float
    high: float
    unit: str
    description: str
    group: int
    finish: Callable[[Sums], Values]


def score_fused(
    scores: Mapping[str, FusedScore], tiles: TileBatch, *, parallel: bool
) -> dict[str, NDArray[np.float32]]:
    """Compute scores in one pass; see `scores.score_tiles`."""
    from wsi_attn.scores import kernels  # Numba takes a second to load, and most commands never compute scores

    pixels, extents, (measure, threshold) = tiles
    columns = np.zeros((len(pixels), of.COLUMNS))
    groups = functools.reduce(operator.or_, (score.group for score in scores.values()))
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), pixels.shape[1], 3 * pixels.shape[2])
    arguments = rows, extents, groups, MEASURE_CODES[measure], int(threshold), columns
    if parallel:
        with kernels.limited_threads():
            kernels.sum_parallel(*arguments)
    else:
        kernels.sum_serial(*arguments)
    sums = Sums(columns, extents)
    return {name: np.asarray(score.finish(sums), np.float32) for name, score in scores.items()}


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


def _stain_score(name: str, column: int) -> FusedScore:
    weights = UNMIXING[:, column]
    bounds = weights * MAX_DENSITY
    low, high = float(bounds.clip(max=0).sum()), float(bounds.clip(min=0).sum())
    described = f"mean concentration of {name}, unmixed from optical density"
    return FusedScore(low, high, "concentration", described, of.DENSITY, lambda sums: sums.density(weights))


def _share(description: str, group: int, count: int, *, of_cells: bool) -> FusedScore:
    """Score of the counted share of the pixels of a tile, or of its cells of 2 x 2 pixels."""

    def finish(sums: Sums) -> Values:
        return np.asarray(sums.columns[:, count] / (sums.cells if of_cells else sums.pixels))

    return FusedScore(0.0, 1.0, "fraction of area", description, group, finish)


TISSUE = _share(
    "share of the tile's pixels inside the slide that are tissue", of.TISSUE, of.COUNT_TISSUE, of_cells=False
)
FOCUS = FusedScore(
    0.0,
    1020.0**2,
    "grey values squared",
    "variance of the Laplacian of grey",
    of.FOCUS,
    lambda sums: sums.columns[:, of.SQUARES_LAPLACE] / sums.pixels,
)
SHARPNESS = FusedScore(
    0.0,
    255.0**2,
    "grey values squared",
    "autocorrelation of grey at 1 less that at 2 pixels",
    of.SHARPNESS,
    lambda sums: np.maximum(sums.columns[:, of.VOLLATH] / (4 * sums.pixels), 0),
)
ENTROPY = FusedScore(
    0.0, 8.0, "bits", "Shannon entropy of grey", of.ENTROPY, lambda sums: sums.columns[:, of.ENTROPY_BITS]
)
OPTICAL_DENSITY = FusedScore(
    0.0,
    MAX_DENSITY,
    "absorbance",
    "mean optical density over pixels and channels",
    of.DENSITY,
    lambda sums: np.maximum(sums.density(np.full(3, 1 / 3)), 0),
)
HAEMATOXYLIN_SCORE, EOSIN_SCORE = _stain_score("haematoxylin", 0), _stain_score("eosin", 1)
PEN = _share("share of the tile that has the colour of marker ink", of.PEN, of.COUNT_PEN, of_cells=True)
FOLD = _share("share of the tile as dark and saturated as folded tissue", of.FOLD, of.COUNT_FOLD, of_cells=True)
