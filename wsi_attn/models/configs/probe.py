"""The probe: configuration; the equations are in `models.probe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from wsi_attn.models.configs.common import COARSE_FACTOR, PRETRAINED, network
from wsi_attn.options import check_fields


@dataclass(frozen=True)
class ProbeConfig:
    """Everything that rebuilds the network."""

    solved: ClassVar[bool] = True
    """Its weights are computed at once, see `is_solved`."""
    classes: int
    """Number of labels."""
    coarse_factor: Annotated[int, COARSE_FACTOR] = 1
    """High-resolution pixels per pixel of the view, along a side, before it is resized."""
    view_size: Annotated[int, network("Side that whole images are resized to.", unit="px", at_least=32)] = 224
    """Side that every view is resized to."""
    views: Annotated[
        int,
        network(
            "Parts along each side that are also seen, each resized, and averaged with the whole image; 1 adds none.",
            name="--probe-views",
            at_least=1,
            at_most=8,
        ),
    ] = 2
    """Parts along each side that are averaged with the whole image; 1 is the whole image alone."""
    backbone: Annotated[str, network("Frozen backbone.", metavar="NAME", suggestions=lambda: PRETRAINED)] = PRETRAINED[
        0
    ]
    """Network whose features are classified."""
    smoothing: float = 0.0
    """Deviation, in pixels, of a Gaussian over every view."""
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
