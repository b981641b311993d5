"""`Layer`: one quantity over a slide, and the mapping of its values to a colour bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_attn.geometry import Frame
from wsi_attn.heatmaps.appearance import Mode
from wsi_attn.heatmaps.raster import FloatArray, attention_rank, attention_share

ATTENTION = "attention"


@dataclass(frozen=True)
class Layer:
    """A named raster in level-0 coordinates.

    `name` is the name on the command line: "attention", "evidence:CLASS", "uncertainty", "score:NAME" or "tissue".
    `values` is float32 (rows, columns) of `frame`, in the quantity's own unit, NaN for invalid cells.
    """

    name: str
    frame: Frame
    values: FloatArray

    @property
    def title(self) -> str:
        """Display name of the quantity."""
        kind, _, of = self.name.partition(":")
        if kind == "evidence":
            return f"Evidence for {of}"
        return of.capitalize() if kind == "score" else kind.capitalize()

    @property
    def mode(self) -> Mode:
        """Default mode: ranks for attention, a softmax in which only ranks are distinguishable; otherwise values."""
        return "rank" if self.name == ATTENTION else "value"


@dataclass(frozen=True)
class DisplayValues:
    """A layer on the scale of its colour bar: float32 (rows, columns), 0 to 1 with NaN, and the texts of the bar."""

    values: FloatArray
    title: str
    subtitle: str
    ticks: tuple[str, ...]


def display_values(layer: Layer, mode: Mode | None = None) -> DisplayValues:
    """Map the cells of a layer to positions on the colour bar.

    "rank": each cell's percentile within the slide. "value": for attention a share of its maximum, starting at 0; for
    anything else from the minimum to the maximum of the slide, which the ticks show.

    Raises
    ------
    UsageError : unknown mode.
    """
    mode = mode or layer.mode
    if mode == "rank":
        ranks = attention_rank(layer.values)
        return DisplayValues(ranks, f"{layer.title} rank", "percentile within this slide", ("0", "50", "100"))
    if layer.name == ATTENTION:
        share, largest = attention_share(layer.values)
        ticks = ("0", f"{largest / 2:.2g}", f"{largest:.2g}")
        return DisplayValues(share, layer.title, "share of the slide's total, per cell", ticks)
    if np.isnan(layer.values).all():
        return DisplayValues(layer.values, layer.title, "no values in this slide", ("0", "1"))
    low, high = float(np.nanmin(layer.values)), float(np.nanmax(layer.values))
    spread = high - low
    values = (layer.values - np.float32(low)) / np.float32(spread) if spread > 0 else layer.values * 0 + np.float32(0.5)
    ticks = (f"{low:.3g}", f"{(low + high) / 2:.3g}", f"{high:.3g}")
    return DisplayValues(values.astype(np.float32), layer.title, "value, minimum to maximum", ticks)
