"""The interface of systems that read stored features instead of pixels.

Letters: B bags, N instances of a bag, D features, C classes, P pooled channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from wsi_attn.models.base import Network, NetworkConfig
from wsi_attn.models.configs import BAGS


@dataclass(frozen=True)
class FeatureOutput:
    """Output of `FeatureModel.forward`.

    Attributes
    ----------
    logits
        float (B, C).
    attention
        B times float (N,), at least 0, sums to 1 over the instances of a bag.
    pooled
        float (B, P), the input of `Network.decide`, before dropout.
    evidence
        B times float (N, C), evidence of each instance for each label, in logits above the mean over the labels; empty
        while training.
    """

    logits: Tensor
    attention: tuple[Tensor, ...]
    pooled: Tensor
    evidence: tuple[Tensor, ...] = ()


class FeatureConfig(NetworkConfig, Protocol):
    """Fields that the configuration of every `FeatureModel` has, among others."""

    @property
    def classes(self) -> int:
        """Number of labels."""
        ...

    @property
    def features(self) -> int:
        """D."""
        ...

    @property
    def instance_dropout(self) -> float:
        """Share of the instances that a training step leaves out at random."""
        ...


class FeatureModel(Network):
    """Base class of the systems that read stored features."""

    config: FeatureConfig
    task: ClassVar[str] = BAGS

    def __call__(self, bags: Sequence[Tensor]) -> FeatureOutput:
        """`forward`, with its type."""
        output: FeatureOutput = super().__call__(bags)
        return output

    def prepare(self, mean: Tensor, deviation: Tensor) -> None:
        """Learn of the features before training, also when a run resumes.

        Parameters
        ----------
        mean, deviation
            float (D,), over all training instances; the deviation is above 0.
        """

    @abstractmethod
    def forward(self, bags: Sequence[Tensor]) -> FeatureOutput:
        """Predict B bags.

        Parameters
        ----------
        bags
            B times float16 or float32 (N, D), N at least 1, on any device; the network moves them in parts.
        """

    @abstractmethod
    def losses(self, output: FeatureOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return the named loss terms that the training loop sums; "fused" is the cross-entropy of `output.logits`.

        Parameters
        ----------
        labels
            int64 (B,).
        class_weights
            float (C,), weight of each class in the cross-entropies; equal by default.
        """
