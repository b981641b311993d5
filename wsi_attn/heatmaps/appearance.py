"""How a quantity is drawn over a slide. Imports no arrays, so that the help of commands needs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from wsi_attn.options import Option, check_fields

Mode = Literal["rank", "value"]
"""Percentiles within the slide, or values."""


COLOURS = ("viridis", "magma", "inferno", "plasma", "cividis")
"""Names of the colour maps."""


@dataclass(frozen=True)
class Appearance:
    """Colours of a picture of one quantity."""

    mode: Annotated[
        Mode | None,
        Option(
            "Colour scale: rank (percentile within the slide) or value.",
            name="--as",
            aliases=("--show",),
            default="rank for attention, else value",
        ),
    ] = None
    colour: Annotated[
        str,
        Option(
            "Colour map.",
            name="--colours",
            aliases=("--colour-map",),
            choices=COLOURS,
        ),
    ] = "viridis"
    alpha: Annotated[
        float,
        Option("Opacity of the highest value.", name="--opacity", aliases=("--alpha",), at_least=0, at_most=1),
    ] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)


USUAL = Appearance()
