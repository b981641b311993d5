"""The plain CNN: configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from wsi_attn.models.configs.common import BACKBONE, COARSE_FACTOR, COARSE_WIDTHS, DROPOUT, FEATURE_STRIDE, PRETRAINED
from wsi_attn.options import check_fields


@dataclass(frozen=True)
class CnnConfig:
    """Configuration of the network."""

    classes: int
    """Number of labels."""
    coarse_factor: Annotated[int, COARSE_FACTOR] = 8
    """High-resolution pixels per pixel of the view, along a side."""
    coarse_widths: Annotated[tuple[int, ...], COARSE_WIDTHS] = (24, 48, 96)
    """Channels of phi; its stride is 2 to the power of their number."""
    dropout: Annotated[float, DROPOUT] = 0.25
    """Dropout on the pooled features."""
    smoothing: float = 0.0
    """Deviation, in pixels, of a Gaussian over every view."""
    backbone: Annotated[str, BACKBONE] = "small"
    """Network phi: a registered one."""
    feature_stride: Annotated[int, FEATURE_STRIDE] = 16
    """Largest stride of phi, in pixels of the view."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means of the input, 0 to 1."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Channel deviations of the input."""

    def __post_init__(self) -> None:
        check_fields(self)

    @staticmethod
    def pretrained(options: Mapping[str, object]) -> Mapping[str, str]:
        """See `common.pretrained_of`."""
        return {"backbone": PRETRAINED[0]}
