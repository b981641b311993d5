"""Joint segmentation: configuration; the equations are in `models.joint_segmentation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from wsi_attn.errors import UsageError
from wsi_attn.models.configs import SEGMENTATION
from wsi_attn.models.configs.common import DROPOUT, HEADS, PRETRAINED, network
from wsi_attn.options import check_fields

STRIDE = 32
"""Pixels per cell of the coarsest features, along a side; `nn.unet` has the same."""

LAYOUTS = ("small", "densenet121", "densenet161")
"""Sizes of the DenseUNet."""


@dataclass(frozen=True)
class JointSegmentationConfig:
    """Everything that rebuilds the network.

    Raises
    ------
    UsageError : a crop that is not a multiple of the network's stride, or a coarse factor.
    """

    task: ClassVar[str] = SEGMENTATION
    classes: int
    """Number of classes, the background first."""
    coarse_factor: int = 1
    """1: the network sees the high resolution itself."""
    attention: Annotated[
        Literal["none", "pointwise", "self", "joint", "gate-query", "gate-key", "log-bias"],
        network("Attention of the bottleneck."),
    ] = "joint"
    """One of `nn.joint_attention.ATTENTIONS`."""
    heads: Annotated[int, HEADS] = 1
    """Attention maps of the self part."""
    backbone: Annotated[
        str,
        network(
            "Encoder: a DenseUNet (small, densenet121, densenet161), efficientnet-lite0, 1 or 2, or timm:NAME.",
            metavar="NAME",
            suggestions=lambda: (*LAYOUTS, *PRETRAINED),
        ),
    ] = "small"
    """Encoder: one of `nn.dense_unet.LAYOUTS`, or a registered backbone."""
    gated_skips: bool = True
    """Whether "self" has point-wise gates on the fine skips, as the other kinds have."""
    dropout: Annotated[float, DROPOUT] = 0.1
    """Dropout of whole channels before the head."""
    crop: Annotated[
        int,
        network(
            f"Side of the training crops, and by default of the tiles of a slide; a multiple of {STRIDE}.",
            unit="px",
            at_least=STRIDE,
        ),
    ] = 256
    """Side of the squares that it is trained on, and by default of the tiles of a slide: self-attention over more
    positions than in training is flatter than in training."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means of the input, 0 to 1."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Channel deviations of the input."""

    @staticmethod
    def pretrained(options: Mapping[str, object]) -> Mapping[str, str]:
        """See `common.pretrained_of`: the backbone that is asked for; the default is trained from scratch."""
        backbone = options.get("backbone")
        return {"backbone": backbone} if isinstance(backbone, str) and backbone in PRETRAINED else {}

    def __post_init__(self) -> None:
        check_fields(self)
        if self.crop % STRIDE:
            raise UsageError(f"--crop {self.crop}: must be a multiple of {STRIDE}")
        if self.coarse_factor != 1:
            raise UsageError("--model joint-segmentation has no option --coarse-factor; set the resolution with --mpp")
