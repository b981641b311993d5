"""Two networks with cross-attention: configuration; the equations are in `models.dual_cross`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from wsi_attn.errors import UsageError
from wsi_attn.models.configs.common import (
    COARSE_FACTOR,
    COARSE_WIDTHS,
    DROPOUT,
    HEADS,
    PRETRAINED,
    backbone_option,
    network,
)
from wsi_attn.options import check_fields

PUBLISHED = ("timm:efficientnet_b4", "timm:resnet34")
"""The networks of the paper."""

OURS = ("small", "small-vgg")
"""What stands for them where timm is not installed."""


@dataclass(frozen=True)
class DualCrossConfig:
    """Everything that rebuilds the network."""

    classes: int
    """Number of labels."""
    coarse_factor: Annotated[int, COARSE_FACTOR] = 1
    """High-resolution pixels per pixel of the view, along a side."""
    fusion: Annotated[Literal["cross", "concat", "first", "second"], network("Feature fusion.")] = "cross"
    """One of `FUSIONS`."""
    widths: tuple[int, int] = (128, 256)
    """Features of the levels of stride 8 and 16."""
    heads: Annotated[int, HEADS] = 4
    """Of the cross-attention."""
    most_keys: int = 256
    """Bound of the keys of a map."""
    fused_width: int = 512
    """Channels of G."""
    hidden: int = 256
    """Units of (7)."""
    dropout: Annotated[float, DROPOUT] = 0.3
    """Both dropouts of (7)."""
    coarse_widths: Annotated[tuple[int, ...], COARSE_WIDTHS] = (24, 48, 96, 160)
    """Channels of small networks; four or more, so that they have the strides 8 and 16."""
    smoothing: float = 0.0
    """Deviation, in pixels, of a Gaussian over every view."""
    backbone: Annotated[
        str,
        backbone_option(
            "First backbone: a built-in one or timm:NAME.",
            default=f"{PRETRAINED[0]} where its ImageNet weights are installed, otherwise {PUBLISHED[0]} if timm is "
            f"installed, otherwise {OURS[0]}",
        ),
    ] = "small"
    """First network: built-in or "timm:NAME"."""
    second_backbone: Annotated[
        str,
        backbone_option("Second backbone.", default=f"likewise {PRETRAINED[1]}, {PUBLISHED[1]} or {OURS[1]}"),
    ] = "small-vgg"
    """Second network."""
    second_factor: Annotated[
        int,
        network(
            "Downsampling of the view of the second backbone relative to that of the first: the same image coarsely.",
            at_least=1,
        ),
    ] = 1
    """Pixels of the view of the first network per pixel of that of the second, along a side."""
    second_mean: tuple[float, float, float] | None = None
    """Channel means of the input of the second network; None for those of the first."""
    second_std: tuple[float, float, float] | None = None
    """Channel deviations of the input of the second network; None for those of the first."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means of the input, 0 to 1."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Channel deviations of the input."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises
        ------
        UsageError : a value out of range, or heads that do not divide the widths.
        """
        check_fields(self)
        if any(width % self.heads for width in self.widths):
            raise UsageError(f"{self.heads} heads do not divide the widths {self.widths[0]} and {self.widths[1]}")

    @staticmethod
    def pretrained(options: Mapping[str, object]) -> Mapping[str, str]:
        """See `common.pretrained_of`."""
        both = dict(zip(("backbone", "second_backbone"), PRETRAINED, strict=False))
        unused = {"first": "second_backbone", "second": "backbone"}.get(str(options.get("fusion")))
        return {field: name for field, name in both.items() if field != unused}
