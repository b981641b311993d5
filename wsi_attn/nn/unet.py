"""U-Net with joint attention: an encoder to 1/32 of the resolution, and a decoder with skip connections.

    features at 1/2, 1/4, 1/8, 1/16, 1/32; then five steps up: bilinear x2, skip, 3x3 convolution, norm, ReLU

Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. Attention is applied at the bottleneck and on the skip of 1/16. Finer
skips use only the point-wise gate of that kind, because N^2 pairs are too many there; "self" has it as well, so that
kinds differ at the coarse grids alone. The placement in the paper of `nn.joint_attention` is unknown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import UsageError
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.joint_attention import NONE, POINTWISE, JointAttention

STRIDE = 32
"""Pixels per position of the bottleneck, along a side."""

STRIDES = (2, 4, 8, 16, 32)
"""Of the features that an encoder returns."""

DECODER = (160, 96, 64, 32, 16)
"""Channels of the five steps up from a registered backbone."""


class StepUp(nn.Module):
    """Upsample by 2, concatenate the skip connection, apply one convolution."""

    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + skip, out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Float (B, C, H, W) and (B, C', 2H, 2W) to (B, out, 2H, 2W)."""
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y: Tensor = functional.relu(self.norm(self.conv(x if skip is None else torch.cat([x, skip], dim=1))))
        return y


class UNet(nn.Module, ABC):
    """Logits of every pixel; a subclass is the encoder.

    Parameters
    ----------
    attention
        Kind of attention, see `JointAttention`.
    """

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.kind = attention

    def add_decoder(
        self,
        widths: Sequence[int],
        decoder: Sequence[int],
        classes: int,
        heads: int,
        dropout: float,
        *,
        gated_skips: bool,
    ) -> None:
        """Add everything behind the encoder.

        Parameters
        ----------
        widths
            Channels of the features at `STRIDES`.
        decoder
            Channels of the five steps up.
        classes
            Number of classes C.
        heads
            See `JointAttention`.
        dropout
            Before the head.
        gated_skips
            Whether fine skips have point-wise gates where there is attention.
        """
        fine = POINTWISE if gated_skips and self.kind != NONE else NONE
        kinds = [fine, fine, fine, self.kind, self.kind]
        self.attentions = nn.ModuleList(
            JointAttention(width, kind, heads) for width, kind in zip(widths, kinds, strict=True)
        )
        inputs = [widths[-1], *decoder]
        skips = [*reversed(widths[:-1]), 0]
        self.steps = nn.ModuleList(
            StepUp(before, skip, out) for (before, out), skip in zip(pairwise(inputs), skips, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(decoder[-1], classes, 1)

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features at `STRIDES` of float (B, 3, H, W), whose sides are multiples of `STRIDE`."""

    @abstractmethod
    def encoder(self) -> list[nn.Module]:
        """Return the parts that can start from trained weights."""

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """Pixels on each side that a position of the bottleneck depends on without attention; None if unknown."""

    @property
    def halo(self) -> int | None:
        """Pixels on each side that a prediction depends on; None if that may be the whole image."""
        if self.reach is None or self.kind not in (NONE, POINTWISE):
            return None
        # Each step reaches one coarse pixel for the interpolation and one fine pixel for the convolution.
        return self.reach + sum((STRIDE >> index) + (STRIDE >> index + 1) for index in range(len(self.steps)))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Logits.

        Parameters
        ----------
        x
            float (B, 3, H, W), normalised; of any size; padded internally by replicating its border.
        valid
            bool (B, H, W), False for padding, which attention ignores.

        Returns
        -------
        float (B, C, H, W).
        """
        height, width = x.shape[2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        x = functional.pad(x, padding, mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)  # 20 to 50 % faster convolutions on a CPU
        seen = functional.pad(valid, padding)[:, None].to(x.dtype)
        skips = self.encode(x)
        for index, attention in enumerate(self.attentions):
            if attention.kind != NONE:
                skips[index] = attention(skips[index], functional.max_pool2d(seen, STRIDES[index])[:, 0] > 0)
        y = skips.pop()
        for step in self.steps:
            y = step(y, skips.pop() if skips else None)
        logits: Tensor = self.head(self.dropout(y))
        return logits[:, :, :height, :width]


class BackboneUNet(UNet):
    """U-Net whose encoder is a registered backbone, with batch normalisation of its stages.

    Parameters
    ----------
    backbone
        With a stage of each of `STRIDES`.
    classes, attention, heads, dropout, gated_skips
        See `UNet`.

    Raises
    ------
    UsageError : the backbone has no stage of one of the strides.
    """

    def __init__(
        self, backbone: Backbone, classes: int, attention: str, heads: int, dropout: float, *, gated_skips: bool = True
    ) -> None:
        super().__init__(attention)
        self.backbone = backbone
        found = {stage.stride: (number, stage.channels) for number, stage in enumerate(backbone.stages(), 1)}
        missing = [stride for stride in STRIDES if stride not in found]
        if missing:
            raise UsageError(f"--backbone has no stage of stride {missing[0]}, which joint-segmentation needs")
        self.taps = [found[stride][0] for stride in STRIDES]
        widths = [found[stride][1] for stride in STRIDES]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.add_decoder(widths, DECODER, classes, heads, dropout, gated_skips=gated_skips)

    def encode(self, x: Tensor) -> list[Tensor]:
        """See `UNet.encode`."""
        kept: dict[int, Tensor] = {}
        with self.backbone.watched({number: partial(kept.__setitem__, number) for number in self.taps}):
            self.backbone(x)
        return [norm(kept[number]) for number, norm in zip(self.taps, self.norms, strict=True)]

    def encoder(self) -> list[nn.Module]:
        """See `UNet.encoder`."""
        return [self.backbone]

    @property
    def reach(self) -> int | None:
        """See `UNet.reach`."""
        return self.backbone.halo
