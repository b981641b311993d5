"""DenseUNet: a DenseNet encoder to 1/32 of the resolution and a decoder with skip connections.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017 (layers, transitions, table 1), as the encoder of a
U-Net, as in Li et al., "H-DenseUNet", IEEE TMI 2018, and in the paper of `nn.joint_attention`.

    1/2 stem, 1/4 to 1/32 four dense blocks; then five steps up: bilinear x2, skip, 3x3 convolution, norm, ReLU

Attention is applied at the bottleneck and on the skip of 1/16. Finer skips use only the point-wise gate of that kind,
because N^2 pairs are too many there; "self" has it as well, so that kinds differ at the coarse grids alone. The
paper's placement is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import CheckpointError
from wsi_attn.nn.joint_attention import NONE, POINTWISE, JointAttention
from wsi_attn.registry import unknown_name

STRIDE = 32
"""Pixels per position of the bottleneck, along a side."""

BOTTLENECK = 4
"""Channels of a layer's 1x1 convolution, in units of the growth."""


@dataclass(frozen=True)
class Layout:
    """Sizes of a DenseUNet: channels of the stem, growth, layers of the four blocks, channels of the five steps up."""

    stem: int
    growth: int
    layers: tuple[int, ...]
    decoder: tuple[int, ...]


LAYOUTS = {
    "small": Layout(24, 12, (3, 3, 3, 3), (96, 64, 48, 32, 16)),
    "densenet121": Layout(64, 32, (6, 12, 24, 16), (768, 384, 96, 96, 64)),
    "densenet161": Layout(96, 48, (6, 12, 36, 24), (768, 384, 96, 96, 64)),
}
"""By name; "small" trains from a few dozen images on a laptop."""


NAMES = (
    (r"features\.conv0\.", "stem.0."),
    (r"features\.norm0\.", "stem.1."),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.", "blocks.{}.{}."),
    (r"features\.transition(\d+)\.norm\.", "transitions.{}.0."),
    (r"features\.transition(\d+)\.conv\.", "transitions.{}.2."),
    (r"features\.norm5\.", "norm."),
)
"""Names of weights in torchvision and timm, which count from 1, and those here, which count from 0."""


def layout_of(name: str) -> Layout:
    """Return the layout of a name; raises `UnknownNameError`."""
    if name not in LAYOUTS:
        raise unknown_name("network of joint-segmentation", name, LAYOUTS)
    return LAYOUTS[name]


def renamed(key: str) -> str:
    """Return the name used here for a weight of torchvision's or timm's DenseNet."""
    for pattern, name in NAMES:
        if match := re.match(pattern, key):
            return name.format(*(int(number) - 1 for number in match.groups())) + key[match.end() :]
    return key


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution whose output is concatenated to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C + growth, H, W)."""
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], dim=1)


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


class DenseUNet(nn.Module):
    """Logits of every pixel.

    Parameters
    ----------
    layout
        Sizes.
    classes
        Number of classes C.
    attention, heads
        See `JointAttention`.
    dropout
        Before the head.
    gated_skips
        Whether fine skips have point-wise gates where there is attention.
    """

    def __init__(
        self,
        layout: Layout,
        classes: int,
        attention: str,
        heads: int = 1,
        dropout: float = 0.0,
        *,
        gated_skips: bool = True,
    ) -> None:
        super().__init__()
        self.layout, self.kind = layout, attention
        self.stem = nn.Sequential(
            nn.Conv2d(3, layout.stem, 7, 2, 3, bias=False), nn.BatchNorm2d(layout.stem), nn.ReLU()
        )
        blocks, transitions, widths = [], [], [layout.stem]  # widths at 1/2, 1/4, 1/8, 1/16, 1/32
        channels = layout.stem
        for count in layout.layers:
            blocks.append(
                nn.Sequential(*(DenseLayer(channels + index * layout.growth, layout.growth) for index in range(count)))
            )
            channels += count * layout.growth
            widths.append(channels)
            transitions.append(
                nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1, bias=False))
            )
            channels //= 2
        self.blocks, self.transitions = nn.ModuleList(blocks), nn.ModuleList(transitions[:-1])
        self.norm = nn.BatchNorm2d(widths[-1])
        fine = POINTWISE if gated_skips and attention != NONE else NONE
        kinds = [fine, fine, fine, attention, attention]
        self.attentions = nn.ModuleList(
            JointAttention(width, kind, heads) for width, kind in zip(widths, kinds, strict=True)
        )
        inputs = [widths[-1], *layout.decoder]
        skips = [*reversed(widths[:-1]), 0]
        self.steps = nn.ModuleList(
            StepUp(before, skip, out) for (before, out), skip in zip(pairwise(inputs), skips, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(layout.decoder[-1], classes, 1)

    def load_encoder(self, path: Path) -> None:
        """Load the weights of a DenseNet of this layout, with the names of torchvision or timm.

        Raises
        ------
        CheckpointError : not a safetensors file, or weights of another network.
        """
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path} is not a .safetensors file; other formats are not supported")
        try:
            found = {renamed(key): value for key, value in load_file(path).items() if key.startswith("features.")}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"Cannot read the weights {path}: {error}") from error
        own = self.state_dict()
        parts = ("stem.", "blocks.", "transitions.", "norm.")
        counted = {key for key in own if key.startswith(parts) and not key.endswith("num_batches_tracked")}
        wrong = sorted(key for key in counted if key not in found or found[key].shape != own[key].shape)
        if wrong or set(found) - set(own):
            unlike = (wrong or sorted(set(found) - set(own)))[0]
            raise CheckpointError(
                f"{path} contains weights of another network: {unlike} is missing or has another shape"
            )
        self.load_state_dict(found, strict=False)

    def encoder(self) -> list[nn.Module]:
        """Return the parts that `load_encoder` loads."""
        return [self.stem, self.blocks, self.transitions, self.norm]

    @property
    def halo(self) -> int | None:
        """Pixels on each side that a prediction depends on; None if self-attention makes that the whole image."""
        if self.kind not in (NONE, POINTWISE):
            return None
        down: int = 3 + 2 + sum(count << (2 + index) for index, count in enumerate(self.layout.layers))
        # Each step reaches one coarse pixel for the interpolation and one fine pixel for the convolution.
        return down + sum((STRIDE >> index) + (STRIDE >> index + 1) for index in range(len(self.steps)))

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
        skips = [self.stem(x)]
        y = functional.max_pool2d(skips[0], 3, 2, 1)
        for index, block in enumerate(self.blocks):
            y = block(y)
            skips.append(y)
            if index < len(self.transitions):
                y = functional.avg_pool2d(self.transitions[index](y), 2)
        skips[-1] = functional.relu(self.norm(skips[-1]))
        for index, attention in enumerate(self.attentions):
            if attention.kind != NONE:
                skips[index] = attention(skips[index], functional.max_pool2d(seen, 2 ** (index + 1))[:, 0] > 0)
        y = skips.pop()
        for step in self.steps:
            y = step(y, skips.pop() if skips else None)
        logits: Tensor = self.head(self.dropout(y))
        return logits[:, :, :height, :width]
