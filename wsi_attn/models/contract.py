"""What every attention system fulfils, and what it is given.

Letters: B slides, C classes, K instances, D features, h x w cells of the attention map. A model never opens a
file: pixels at the places it picks come from a `PatchSource`, so it runs as well on a synthetic one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn.contract import UInt8Array


class PatchSource(Protocol):
    """Pixels of one slide at the model's high resolution."""

    def read_patches(self, xy: NDArray[np.int64], size: int) -> tuple[UInt8Array, NDArray[np.bool_]]:
        """Square patches.

        Parameters
        ----------
        xy
            int64 (K, 2), top-left corners in high-resolution pixels.
        size
            Side in high-resolution pixels.

        Returns
        -------
        uint8 (K, size, size, 3) and bool (K,), False where a patch could not be decoded.
        """
        ...


@dataclass(frozen=True)
class BagBatch:
    """B slides of one step.

    Attributes
    ----------
    coarse
        uint8 (B, 3, H, W), low-resolution views, padded to one size.
    valid
        bool (B, h, w), cells of the attention map that may be looked at: tissue, not padding.
    extent
        int64 (B, 2), width and height of each slide in high-resolution pixels.
    sources
        B patch sources.
    generator
        Source of randomness while training; None draws nothing.
    coarse_size
        int64 (B, 2), width and height of each view without its padding; None where none is padded.
    """

    coarse: Tensor
    valid: Tensor
    extent: Tensor
    sources: tuple[PatchSource, ...]
    generator: torch.Generator | None = None
    coarse_size: Tensor | None = None


@dataclass(frozen=True)
class SlideOutput:
    """What `forward` always returns.

    Attributes
    ----------
    logits
        float (B, C), the fused answer.
    attention
        float (B, h, w), softmax over the valid cells; 0 elsewhere.
    patch_xy
        int64 (B, K, 2), top-left corners of the patches read, high-resolution pixels.
    patch_mask
        bool (B, K), False for padding and for patches that could not be decoded.
    patch_attention
        float (B, K), softmax over the patches read.
    global_logits, instance_logits
        float (B, C), the answers of either branch alone.
    unreadable
        int64 (B,), patches that could not be decoded.
    evidence
        float (B, C, h, w), what each cell says for each label, in logits above the mean of the labels; None while
        training, and from systems that have none.
    """

    logits: Tensor
    attention: Tensor
    patch_xy: Tensor
    patch_mask: Tensor
    patch_attention: Tensor
    global_logits: Tensor
    instance_logits: Tensor
    unreadable: Tensor
    evidence: Tensor | None = None


class SlideModel(Protocol):
    """A network that labels slides; `losses` are named terms that the training loop sums."""

    def __call__(self, batch: BagBatch) -> SlideOutput:
        """Answer B slides."""
        ...

    def losses(self, output: SlideOutput, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss for int64 labels (B,)."""
        ...
