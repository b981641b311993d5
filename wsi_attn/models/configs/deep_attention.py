"""Deep attention: configuration; the equations are in `models.deep_attention`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from wsi_attn.errors import UsageError
from wsi_attn.models.configs.common import (
    BACKBONE,
    COARSE_FACTOR,
    COARSE_WIDTHS,
    DROPOUT,
    FEATURE_STRIDE,
    HEADS,
    PRETRAINED,
    backbone_option,
    network,
    widths,
)
from wsi_attn.options import check_fields


@dataclass(frozen=True)
class DeepAttentionConfig:
    """Everything that rebuilds the network."""

    classes: int
    """Number of labels."""
    coarse_factor: Annotated[int, COARSE_FACTOR] = 4
    """High-resolution pixels per pixel of the coarse view, along a side."""
    patch_size: Annotated[int, network("Side of a key instance in high-resolution pixels.", unit="px", at_least=16)] = (
        128
    )
    """Side of a key instance in high-resolution pixels."""
    instances: Annotated[int, network("Maximum number of key instances per image.", at_least=1)] = 8
    """K, most key instances that are read."""
    focus: int = 0
    """M, strongest cells that the global feature is taken from; 0 for all."""
    coarse_widths: Annotated[tuple[int, ...], COARSE_WIDTHS] = (24, 48, 96)
    """Channels of phi; its stride is 2 to the power of their number."""
    patch_widths: Annotated[
        tuple[int, ...],
        network("Channels per stage of the small backbone of the patches.", metavar="N,N,...", parse=widths),
    ] = (24, 48, 96, 160)
    """Channels of psi."""
    hidden: int = 128
    """L, hidden units of the gates."""
    dropout: Annotated[float, DROPOUT] = 0.25
    """Dropout on the features before each head."""
    spacing: float = 0.75
    """Distance between two instances of "top-k", as a share of the patch side."""
    exploration: Annotated[
        float, network("Scale of the Gumbel noise in instance selection during training; 0 disables it.", at_least=0)
    ] = 1.0
    """Scale of the Gumbel noise that draws instances of "top-k" while training; 0 takes the strongest."""
    global_weight: float = 1.0
    """lambda_g of (10)."""
    instance_weight: float = 0.5
    """lambda_i of (10)."""
    entropy_weight: Annotated[float, network("Weight of the attention entropy term, which spreads attention.")] = 0.01
    """lambda_e of (10); keeps the attention from collapsing onto one cell early."""
    guidance_weight: Annotated[
        float,
        network(
            "Weight of the loss that aligns the coarse attention with the patch evidence; 0 disables it.", at_least=0
        ),
    ] = 1.0
    """lambda_t; by how much the coarse attention learns from the weights of the patches."""
    smoothing: float = 0.0
    """Deviation, in pixels, of a Gaussian over every view and patch; for input sharper than the training images."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means of the input, 0 to 1."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Channel deviations of the input."""
    selection: Annotated[Literal["top-k", "threshold", "sample"], network("Selection of key instances.")] = "top-k"
    """How key instances are chosen: "top-k", "threshold" or "sample"."""
    threshold: Annotated[
        float, network("Cut-off of --selection threshold on the attention map scaled to 0..1.", above=0, at_most=1)
    ] = 0.5
    """tau of the selection "threshold", on the map scaled to 0 to 1."""
    heads: Annotated[int, HEADS] = 1
    """J, attention maps."""
    gated: Annotated[
        bool, network("Use plain attention instead of gated attention.", name="--no-gate", stores=False)
    ] = True
    """Whether the sigmoid gate is in (2)."""
    branches: Annotated[Literal["both", "global", "local"], network("Branches that contribute to the label.")] = "both"
    """What is fused: "both", "global" (no patch is read) or "local" (z is left out of the fusion)."""
    sampling: Annotated[
        Literal["attention", "uniform"],
        network("Sample instances uniformly instead of by attention.", name="--uniform-sampling", stores="uniform"),
    ] = "attention"
    """What instances are drawn by: "attention", or "uniform" over the valid cells."""
    backbone: Annotated[str, BACKBONE] = "small"
    """Network of the coarse view, phi."""
    feature_stride: Annotated[int, FEATURE_STRIDE] = 16
    """Largest stride of phi, in pixels of the coarse view."""
    patch_backbone: Annotated[str, backbone_option("Backbone of the patches, as --backbone.")] = "small"
    """Network of the patches, psi."""
    coupling: bool = False
    """Whether an instance of "threshold" is multiplied by its attention, (7c)."""
    attention_smoothing: float = 1e-4
    """s of (5b), share of the attention that "sample" spreads evenly."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises
        ------
        UnknownNameError : a choice that there is not.
        UsageError : a number out of range, or a combination that means nothing.
        """
        check_fields(self)
        if not 0 <= self.attention_smoothing < 1:
            raise UsageError(f"attention_smoothing is {self.attention_smoothing:g}; it must be from 0 to below 1")
        if self.focus < 0:
            raise UsageError("focus must be at least 0")
        if self.selection == "threshold" and self.sampling == "uniform":
            raise UsageError("--selection threshold does not sample; use --uniform-sampling with top-k or sample")

    @staticmethod
    def pretrained(options: Mapping[str, object]) -> Mapping[str, str]:
        """See `common.pretrained_of`."""
        coarse = {"backbone": PRETRAINED[0]}
        return coarse if options.get("branches") == "global" else {**coarse, "patch_backbone": PRETRAINED[0]}
