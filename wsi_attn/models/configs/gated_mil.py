"""Attention over stored features: configuration; the equations are in `models.gated_mil`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from wsi_attn.models.configs import BAGS
from wsi_attn.models.configs.common import DROPOUT, network
from wsi_attn.options import check_fields


@dataclass(frozen=True)
class GatedMilConfig:
    """Everything that rebuilds the network."""

    task: ClassVar[str] = BAGS
    classes: int
    """Number of labels."""
    features: int
    """Features of an instance."""
    pooling: Annotated[
        Literal["gated", "mean", "max"],
        network("Pooling of the instances: gated (gated attention), mean, or max (the maximum of each channel)."),
    ] = "gated"
    """How the instances of a bag become one vector."""
    embedding: Annotated[int, network("Channels of an embedded instance.", at_least=1)] = 256
    """Channels of an embedded instance."""
    hidden: Annotated[int, network("Hidden units of the gated attention.", at_least=1)] = 128
    """Hidden units of the attention."""
    dropout: Annotated[float, DROPOUT] = 0.25
    """Dropout of the pooled channels."""
    instance_dropout: Annotated[
        float, network("Share of the instances of a bag that each training step leaves out.", at_least=0, at_most=0.95)
    ] = 0.0
    """Share of the instances that a training step leaves out at random."""
    feature_limit: Annotated[
        float, network("Largest absolute value of a standardised feature; larger ones are cut.", above=0)
    ] = 2.5
    """Limit of a standardised feature: sparse features have rare values of many deviations."""
    feature_noise: Annotated[
        float, network("Standard deviation of noise on the standardised features while training.", at_least=0)
    ] = 0.0
    """Deviation of Gaussian noise while training, in deviations of each feature."""

    def __post_init__(self) -> None:
        check_fields(self)
