"""`Layer`: one quantity over a slide, and how its numbers become positions on a colour bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsi_attn.errors import UsageError
from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.raster import FloatArray, attention_rank, attention_share

Mode = Literal["rank", "value"]

ATTENTION = "attention"


@dataclass(frozen=True)
class Layer:
    """A named raster that lies on level 0.

    `name` is what the command line calls it: "attention", "evidence:CLASS", "uncertainty", "score:NAME" or "tissue".
    `values` is float32 (rows, columns) of `frame`, in the quantity's own unit, NaN where nothing was looked at.
    """

    name: str
    frame: Frame
    values: FloatArray

    @property
    def title(self) -> str:
        """The quantity in words."""
        kind, _, of = self.name.partition(":")
        if kind == "evidence":
            return f"Evidence for {of}"
        return of.capitalize() if kind == "score" else kind.capitalize()

    @property
    def mode(self) -> Mode:
        """What suits it: attention is a softmax, of which only ranks can be told apart; the rest shows its values."""
        return "rank" if self.name == ATTENTION else "value"


@dataclass(frozen=True)
class DisplayValues:
    """A layer on the scale of its colour bar: float32 (rows, columns), 0 to 1 with NaN, and the words for the bar."""

    values: FloatArray
    title: str
    subtitle: str
    ticks: tuple[str, ...]


def display_values(layer: Layer, mode: Mode | None = None) -> DisplayValues:
    """Positions of a layer's cells on the colour bar.

    "rank": each cell's percentile within the slide. "value": for attention a share of its largest value, from 0 on;
    for anything else from the least to the largest value of the slide, which the ticks say.

    Raises
    ------
    UsageError : no such mode.
    """
    mode = mode or layer.mode
    if mode not in ("rank", "value"):
        raise UsageError(f"A heatmap shows 'rank' or 'value', not {mode!r}")
    if mode == "rank":
        ranks = attention_rank(layer.values)
        return DisplayValues(ranks, f"{layer.title} rank", "percentile within this slide", ("0", "50", "100"))
    if layer.name == ATTENTION:
        share, largest = attention_share(layer.values)
        ticks = ("0", f"{largest / 2:.2g}", f"{largest:.2g}")
        return DisplayValues(share, layer.title, "share of the slide's, each cell", ticks)
    if np.isnan(layer.values).all():
        return DisplayValues(layer.values, layer.title, "value, none in this slide", ("0", "1"))
    low, high = float(np.nanmin(layer.values)), float(np.nanmax(layer.values))
    spread = high - low
    values = (layer.values - np.float32(low)) / np.float32(spread) if spread > 0 else layer.values * 0 + np.float32(0.5)
    ticks = (f"{low:.3g}", f"{(low + high) / 2:.3g}", f"{high:.3g}")
    return DisplayValues(values.astype(np.float32), layer.title, "value, from the least to the largest", ticks)
