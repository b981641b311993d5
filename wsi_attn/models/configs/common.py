"""Options that the configurations of several systems share; each states its own default."""

from __future__ import annotations

from wsi_attn.options import Option

PANEL = "Network"
"""Section of the help."""

SMALL = ("small", "small-vgg", "small-googlenet", "small-resnet", "small-densenet")
"""Networks that need no other package."""


def widths(text: str) -> tuple[int, ...]:
    """Parse the channels of a small backbone: at least one positive integer."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError("positive integers separated by commas")
    return tuple(int(part) for part in parts)


COARSE_FACTOR = Option("Downsampling of the coarse view relative to the high resolution.", panel=PANEL, at_least=1)
BACKBONE = Option(
    "Backbone of the coarse view: small, small-vgg, -googlenet, -resnet or -densenet, or timm:NAME.",
    panel=PANEL,
    metavar="NAME",
    suggestions=lambda: SMALL,
)
COARSE_WIDTHS = Option(
    "Channels per stage of the small backbone of the coarse view.", panel=PANEL, metavar="N,N,...", parse=widths
)
DROPOUT = Option("Dropout rate before each head.", panel=PANEL, at_least=0, at_most=0.95)
HEADS = Option("Number of attention heads.", panel=PANEL, at_least=1)
