"""Global spatial attention: configuration; the equations are in `models.global_spatial`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from wsi_attn.errors import UsageError
from wsi_attn.models.configs.common import BACKBONE, COARSE_FACTOR, COARSE_WIDTHS, DROPOUT, PRETRAINED, network
from wsi_attn.options import check_fields


def stage(text: str) -> int:
    """Parse --map-after: the number of a stage, 0 for the input."""
    if text == "input":
        return 0
    if not text.isdecimal():
        raise ValueError("input or the number of a stage")
    return int(text)


@dataclass(frozen=True)
class GlobalSpatialConfig:
    """Everything that rebuilds the network."""

    classes: int
    """Number of labels."""
    coarse_factor: Annotated[int, COARSE_FACTOR] = 1
    """High-resolution pixels per pixel of the view, along a side, before it is resized."""
    view_size: Annotated[
        int,
        network("Side that images are resized to, a multiple of the stride of the backbone.", unit="px", at_least=8),
    ] = 224
    """Side that every view is resized to; a multiple of the network's stride."""
    map_by: Annotated[
        Literal["anchor", "batch", "free", "shuffled", "none"], network("What the spatial map is learned from.")
    ] = "anchor"
    """What the map is learned from: "anchor", "batch", "free", "shuffled", or "none"."""
    map_after: Annotated[
        int,
        network(
            "Where the map is applied: input, or the number of a backbone stage.", metavar="input|1|2|...", parse=stage
        ),
    ] = 2
    """Stage of the network whose output is weighed; 0 weighs the image."""
    map_features: Annotated[
        Literal["stage", "intensity"],
        network(
            "What the classifier of the map sees of a pixel: the output of the stage of --map-after before training, "
            "or intensities."
        ),
    ] = "stage"
    """What u_p consists of: "stage", the features of `map_after` before training, or "intensity"."""
    unit_mean: bool = True
    """Whether (3) divides by the mean of the map."""
    residual: Annotated[bool, network("Multiply by 1 + map instead of by the map.", name="--map-residual")] = False
    """Whether (3) is X (1 + m)."""
    anchors: Annotated[
        int, network("Number of anchor images; used if the training set is over twice as large.", at_least=1)
    ] = 128
    """Most images that "anchor" looks at, where there are more than twice as many."""
    map_hidden: int = 64
    """Hidden units of g; 0 makes it linear."""
    map_side: Annotated[
        int, network("Side of the neighbourhood that the pixel classifier sees, odd; 1 is a single pixel.", at_least=1)
    ] = 1
    """Side of the first convolution of g: 1 looks at the pixel alone."""
    map_bias: Annotated[float, network("Initial logit of the map.")] = 0.0
    """First bias of g."""
    map_freeze: Annotated[
        float, network("Final share of the epochs in which the map is frozen.", at_least=0, below=1)
    ] = 0.2
    """Share of the epochs, at the end, in which the map stays as it is."""
    coarse_widths: Annotated[tuple[int, ...], COARSE_WIDTHS] = (24, 48, 96)
    """Channels of a small network; its stride is 2 to the power of their number."""
    dropout: Annotated[float, DROPOUT] = 0.25
    """Dropout on the pooled features."""
    smoothing: float = 0.0
    """Deviation, in pixels, of a Gaussian over every view."""
    backbone: Annotated[str, BACKBONE] = "small"
    """Network f: "small", "small-vgg", "small-googlenet", "small-resnet", "small-densenet" or "timm:NAME"."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means of the input, 0 to 1."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Channel deviations of the input."""

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises
        ------
        UsageError : a number out of range.
        """
        check_fields(self)
        if self.map_side % 2 == 0 or self.map_hidden < 0:
            raise UsageError("the side of the map's classifier must be odd, and its units at least 0")

    @staticmethod
    def pretrained(options: Mapping[str, object]) -> Mapping[str, str]:
        """See `common.pretrained_of`."""
        return {"backbone": PRETRAINED[0]}
