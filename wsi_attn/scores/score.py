"""`Score`: a number for each tile that any package can define."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TileBatch(NamedTuple):
    """Tiles that are scored together.

    Attributes
    ----------
    pixels
        uint8 (N, H, W, 3), RGB.
    valid
        int64 (N, 2): width and height of the part of each tile that lies inside the slide, from its top left.
    rule
        The tissue rule, *measure > threshold*, as in `TissueMask.measure` and `TissueMask.threshold`.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.int64]
    rule: tuple[str, int]


@dataclass(frozen=True)
class Score:
    """A number for each tile: its range, unit and description are stored beside its values.

    Attributes
    ----------
    low, high
        Limits of its values; infinite if there are none.
    unit, description
        Text for people.
    compute
        Scores tiles: float (N,) within the limits, 0 for a tile without a valid pixel, never NaN; each tile by itself,
        so that the result does not depend on the batch. Called from several threads.
    """

    low: float
    high: float
    unit: str
    description: str
    compute: Callable[[TileBatch], NDArray[np.floating]]
