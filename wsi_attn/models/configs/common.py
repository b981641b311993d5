"""Options that the configurations of several systems share; each states its own default."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

from wsi_attn.options import Option

network = partial(Option, panel="Network")
"""An option of the section "Network" of the help."""

SMALL = ("small", "small-vgg", "small-googlenet", "small-resnet", "small-densenet")
"""Networks that need no other package."""

PRETRAINED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
"""Networks whose ImageNet weights are packages."""

AUTO = "auto"
"""Value of a backbone and of --weights that depends on the packages that are installed."""


def pretrained_of(config: type, options: Mapping[str, object]) -> Mapping[str, str]:
    """Return the backbone with installable weights that suits each field that names a backbone, in the order of the
    backbones of the network.

    A configuration states them in its static method `pretrained`, without the fields that `options` leave unused; one
    without the method has none.
    """
    stated = getattr(config, "pretrained", None)
    return cast(Mapping[str, str], stated(options)) if stated is not None else {}


def widths(text: str) -> tuple[int, ...]:
    """Parse the channels of a small backbone: at least one positive integer."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError("positive integers separated by commas")
    return tuple(int(part) for part in parts)


COARSE_FACTOR = network("Downsampling of the coarse view relative to the high resolution.", at_least=1)
CHOSEN = f"{PRETRAINED[0]} where its ImageNet weights are installed, otherwise small"
"""The default of a backbone, for the help."""

backbone_option = partial(network, metavar="auto|NAME", suggestions=lambda: (AUTO, *PRETRAINED, *SMALL), default=CHOSEN)
BACKBONE = backbone_option(
    "Backbone of the coarse view: efficientnet-lite0, 1 or 2, small, small-vgg, -googlenet, -resnet or -densenet, or "
    "timm:NAME."
)
COARSE_WIDTHS = network("Channels per stage of the small backbone of the coarse view.", metavar="N,N,...", parse=widths)
FEATURE_STRIDE = network(
    "Largest stride of the features of a pretrained network: 16 localises better; 32 uses the deepest features, for "
    "EfficientNet-Lite those that its ImageNet classifier reads.",
    unit="px",
    at_least=2,
)
DROPOUT = network("Dropout rate before each head.", at_least=0, at_most=0.95)
HEADS = network("Number of attention heads.", at_least=1)
