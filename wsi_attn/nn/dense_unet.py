"""DenseUNet: a U-Net whose encoder is a DenseNet.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017 (layers, transitions, table 1), as the encoder of a
U-Net, as in Li et al., "H-DenseUNet", IEEE TMI 2018, and in the paper of `nn.joint_attention`: the stem at 1/2 of the
resolution, and four dense blocks at 1/4 to 1/32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import CheckpointError, UsageError
from wsi_attn.nn.backbones import pretrained_file
from wsi_attn.nn.unet import UNet

BOTTLENECK = 4
"""Channels of a layer's 1x1 convolution, in units of the growth."""


@dataclass(frozen=True)
class Layout:
    """Sizes of a DenseUNet: channels of the stem, growth, layers of the four blocks, channels of the five steps up, and
    the name of the published DenseNet with these sizes, if there is one.
    """

    stem: int
    growth: int
    layers: tuple[int, ...]
    decoder: tuple[int, ...]
    published: str = ""


LAYOUTS = {
    "small": Layout(24, 12, (3, 3, 3, 3), (96, 64, 48, 32, 16)),
    "densenet121": Layout(64, 32, (6, 12, 24, 16), (768, 384, 96, 96, 64), "densenet121"),
    "densenet161": Layout(96, 48, (6, 12, 36, 24), (768, 384, 96, 96, 64), "densenet161"),
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


class DenseUNet(UNet):
    """U-Net with a DenseNet as encoder.

    Parameters
    ----------
    layout
        Sizes.
    classes, attention, heads, dropout, gated_skips
        See `UNet`.
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
        super().__init__(attention)
        self.layout = layout
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
        self.add_decoder(widths, layout.decoder, classes, heads, dropout, gated_skips=gated_skips)

    def load(self, weights: str) -> None:
        """Load trained weights into the encoder; decoder and attention keep theirs.

        Parameters
        ----------
        weights
            "pretrained", those that timm names on the Hugging Face hub, or a `.safetensors` file of a DenseNet of this
            layout, with the names of torchvision or timm.

        Raises
        ------
        UsageError : a layout that no DenseNet has, which has no pretrained weights.
        CheckpointError : the weights cannot be downloaded, are no safetensors file, or those of another network.
        MissingExtraError : timm or huggingface-hub is not installed.
        """
        if not self.layout.published:
            raise UsageError(
                f"--weights {weights}: --backbone small is trained from scratch; choose efficientnet-lite0 or "
                "densenet121"
            )
        path = pretrained_file(self.layout.published) if weights == "pretrained" else Path(weights)
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

    def encode(self, x: Tensor) -> list[Tensor]:
        """See `UNet.encode`."""
        skips = [self.stem(x)]
        y = functional.max_pool2d(skips[0], 3, 2, 1)
        for index, block in enumerate(self.blocks):
            y = block(y)
            skips.append(y)
            if index < len(self.transitions):
                y = functional.avg_pool2d(self.transitions[index](y), 2)
        skips[-1] = functional.relu(self.norm(skips[-1]))
        return skips

    def encoder(self) -> list[nn.Module]:
        """See `UNet.encoder`."""
        return [self.stem, self.blocks, self.transitions, self.norm]

    @property
    def reach(self) -> int:
        """See `UNet.reach`."""
        down: int = 3 + 2 + sum(count << (2 + index) for index, count in enumerate(self.layout.layers))
        return down
