"""Overlapping tiles along an axis, with smooth weights that sum to one at every pixel.

Neighbours share `overlap` pixels. The outer quarter of the overlap of each tile, where the network lacks context, has
weight 0; over the middle half the tiles are blended with sin^2 and cos^2:

    tile i      1 1 1 1 1 1 1 1 | fading out | 0 0
    tile i + 1              0 0 | fading in  | 1 1 1 1 1 1 1 1

If the receptive radius of a network is at most a quarter of the overlap, blended predictions equal untiled ones;
otherwise they differ smoothly, without seams. Tiles at the edge of the slide have full weight up to the edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_attn.errors import UsageError

STEP = 32
"""Tile and overlap are multiples of it, so that all tiles lie on one grid of the coarsest features."""


def default_overlap(tile: int) -> int:
    """Return a quarter of a tile in multiples of `STEP`, at least one if half of the tile is large enough."""
    return min(max(STEP, tile // 4 // STEP * STEP), tile // 2 // STEP * STEP)


@dataclass(frozen=True)
class Span:
    """One tile along an axis: `start` and `stop` of its pixels and of its contributing pixels."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Windows:
    """The tiles along one axis.

    Attributes
    ----------
    length
        Length of the slide in pixels.
    tile, overlap
        Tile side and overlap of neighbours in pixels; multiples of `STEP`, the tile larger than the overlap.

    Raises
    ------
    UsageError : invalid sizes.
    """

    length: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.tile % STEP or self.overlap % STEP or not 0 <= self.overlap <= self.tile // 2 or not self.tile:
            raise UsageError(
                f"a tile of {self.tile} with an overlap of {self.overlap} is invalid: both must be multiples of {STEP} "
                "and the overlap at most half of the tile"
            )

    @property
    def stride(self) -> int:
        """Distance between neighbouring tiles in pixels."""
        return self.tile - self.overlap

    def __len__(self) -> int:
        return 1 + max(0, math.ceil((self.length - self.tile) / self.stride))

    def span(self, index: int) -> Span:
        """Return the span of a tile."""
        start, stop = index * self.stride, min(index * self.stride + self.tile, self.length)
        unseen = self.overlap // 4
        first = start if index == 0 else start + unseen
        return Span(start, stop, first, stop if index == len(self) - 1 else start + self.tile - unseen)

    def weights(self, index: int) -> NDArray[np.float32]:
        """Return the weight of each pixel of a tile, float32 (stop - start,)."""
        span = self.span(index)
        weights = np.ones(span.stop - span.start)
        places: NDArray[np.float64] = np.arange(span.start, span.stop, dtype=np.float64) + 0.5
        if index > 0:
            weights = weights * self._rise(places, index)
        if index < len(self) - 1:
            weights = weights * (1 - self._rise(places, index + 1))
        return weights.astype(np.float32)

    def touching(self, first: int, last: int) -> range:
        """Return the tiles that contribute to any pixel from `first` to `last` - 1."""
        near = range(max(0, (first - self.tile) // self.stride), min(len(self), last // self.stride + 1))
        found = [index for index in near if self.span(index).last > first and self.span(index).first < last]
        return range(found[0], found[-1] + 1)

    def _rise(self, places: NDArray[np.float64], index: int) -> NDArray[np.float64]:
        """Return the blending ramp of tile `index`, from 0 to 1."""
        begin, length = self.span(index).first, self.overlap // 2
        if not length:
            return np.asarray((places >= begin).astype(np.float64))
        return np.asarray(np.sin(np.pi / 2 * np.clip((places - begin) / length, 0, 1)) ** 2)
