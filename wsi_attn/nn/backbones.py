"""Networks that turn an image into a grid of features, by name: small ones of ours, and any of timm's."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.errors import CheckpointError, MissingExtraError, UnknownNameError, UsageError
from wsi_attn.nn.backbone import Backbone, Stage
from wsi_attn.nn.families import FAMILIES, ResidualBlock
from wsi_attn.registry import unknown_name

SMALL, TIMM = "small", "timm:"
"""Names of backbones: ours, and the prefix of timm's."""

ATTENTION_STRIDE = 16
"""Stride of the timm stage that attention is computed on: a coarser grid would point less precisely."""


class SmallResNet(Backbone):
    """A stem of stride 2 and one residual block of stride 2 for each further width; trains from a few hundred images.

    Parameters
    ----------
    widths
        Channels after the stem and after each block; the output stride is 2 to the power of their number.
    """

    halo: int

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(before, after, 2) for before, after in pairwise(widths)))
        self.widths = tuple(widths)
        self.out_channels = widths[-1]
        self.stride = 2 ** len(widths)
        # A block at input step s sees s pixels to each side by its first convolution and 2s by its second.
        self.halo = 1 + sum(3 * 2**index for index in range(1, len(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, 3, H, W) to (B, C, ceil(H/stride), ceil(W/stride))."""
        features: Tensor = self.blocks(self.stem(x))
        return features

    def stages(self) -> list[Stage]:
        """See `Backbone.stages`."""
        parts = [self.stem, *self.blocks]
        return [
            Stage(part, width, 2**number)
            for number, (part, width) in enumerate(zip(parts, self.widths, strict=True), 1)
        ]


class TimmBackbone(Backbone):
    """The feature maps of one stage of a timm network, later stages left out; weights are random until loaded.

    Its receptive field is not known and may be all of the image (squeeze-and-excitation, self-attention): `halo` is
    None, and an image is encoded whole.

    Parameters
    ----------
    name
        As timm has it, with or without the tag of its weights.
    largest_stride
        The deepest stage of at most this stride is taken, the first where all are coarser; None takes the last.

    Raises
    ------
    MissingExtraError : timm is not installed.
    UnknownNameError : timm has no such network.
    UsageError : the network gives no feature maps, or not of images of any size.
    """

    halo: None

    def __init__(self, name: str, largest_stride: int | None) -> None:
        super().__init__()
        self.name = name
        self.halo = None
        reductions = _features_of(name).feature_info.reduction()
        fitting = [index for index, stride in enumerate(reductions) if stride <= (largest_stride or max(reductions))]
        self.stage = fitting[-1] if fitting else 0
        self.network = _features_of(name, out_indices=(self.stage,))
        self.out_channels = int(self.network.feature_info.channels()[0])
        self.stride = int(reductions[self.stage])
        self._try_out()

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, 3, H, W) to (B, C, ceil(H/stride), ceil(W/stride)); the input is padded to whole cells."""
        height, width = x.shape[2:]
        features: Tensor = self.network(functional.pad(x, (0, -width % self.stride, 0, -height % self.stride)))[0]
        return features

    def stages(self) -> list[Stage]:
        """See `Backbone.stages`; of several blocks of one stride timm names the last.

        Raises
        ------
        UsageError : its parts answer with something else than feature maps.
        """
        records = self.network.feature_info.info[: self.stage + 1]
        return [
            Stage(_submodule(self.network, record["module"]), int(record["num_chs"]), int(record["reduction"]))
            for record in records
        ]

    @torch.no_grad()
    def _try_out(self) -> None:
        """Refuse a network that takes images of one size only, or answers with another order of axes."""
        shape = None
        with contextlib.suppress(AssertionError, RuntimeError):
            shape = tuple(self.network.eval()(torch.zeros(1, 3, 4 * self.stride, 6 * self.stride))[0].shape)
        if shape != (1, self.out_channels, 4, 6):
            raise UsageError(f"{TIMM}{self.name} gives no feature maps of images of any size; name another network")
        self.network.train()

    def load(self, weights: str) -> None:
        """Take trained weights.

        Parameters
        ----------
        weights
            "pretrained", those that timm names on the Hugging Face hub, or a `.safetensors` file with timm's names.

        Raises
        ------
        CheckpointError : they cannot be had or read, or belong to another network.
        MissingExtraError : huggingface-hub is not installed.
        """
        path = pretrained_file(self.name) if weights == "pretrained" else Path(weights)
        _check_weights(path, self.name)
        source = _features_of(
            self.name, out_indices=(self.stage,), pretrained=True, pretrained_cfg_overlay={"file": str(path)}
        )
        self.network.load_state_dict(source.state_dict())


def build_backbone(name: str, widths: Sequence[int], largest_stride: int | None = None) -> Backbone:
    """A backbone by name: "small" or one of `FAMILIES`, which `widths` describe, or "timm:NAME", see `TimmBackbone`.

    Raises
    ------
    UnknownNameError : there is no such backbone.
    MissingExtraError : timm is wanted and not installed.
    """
    if name == SMALL:
        return SmallResNet(widths)
    if name in FAMILIES:
        return FAMILIES[name](widths)
    if name.startswith(TIMM):
        return TimmBackbone(name.removeprefix(TIMM), largest_stride)
    raise UnknownNameError(
        f"There is no backbone named {name!r}; known: {', '.join([SMALL, *FAMILIES])} and {TIMM}NAME"
    )


def normalisation_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Channel means and deviations, 0 to 1, that a timm network's weights were trained with; None for ours.

    Raises
    ------
    MissingExtraError : timm is wanted and not installed.
    UnknownNameError : timm has no such network.
    """
    if not name.startswith(TIMM):
        return None
    cfg = _features_of(name.removeprefix(TIMM), out_indices=(0,)).pretrained_cfg
    return tuple(cfg["mean"]), tuple(cfg["std"])


def _timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit torch
        raise MissingExtraError(
            f"Backbones of timm need timm, which cannot be loaded ({error}); pip install 'wsi-attn[encoders]'"
        ) from error
    module: ModuleType = timm
    return module


def timm_is_here() -> bool:
    """Whether networks of timm can be had."""
    try:
        _timm()
    except MissingExtraError:
        return False
    return True


def _submodule(network: Any, name: str) -> nn.Module:
    """A part of a timm network by the name that timm has for it; sequences may have been laid out flat."""
    for spelled in (name, name.replace(".", "_")):
        with contextlib.suppress(AttributeError):
            found: nn.Module = network.get_submodule(spelled)
            return found
    raise UsageError(f"This timm network has no stage {name} whose output is a feature map; name another network")


def _features_of(name: str, **options: Any) -> Any:
    """A timm network that answers with feature maps; what is not typed there is Any here."""
    timm = _timm()
    if not timm.is_model(name):
        raise unknown_name("timm network", name, timm.list_models())
    try:  # what transformers need for images of any size, and no other network takes
        return timm.create_model(name, features_only=True, dynamic_img_size=True, **options)
    except TypeError:
        return timm.create_model(name, features_only=True, **options)


def pretrained_file(name: str) -> Path:
    """The safetensors file of a timm network's weights, downloaded once by the hub's own client."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError(
            "Pretrained weights need huggingface-hub; pip install 'wsi-attn[encoders]', or name a .safetensors file"
        ) from error
    cfg = _timm().get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        raise CheckpointError(f"timm names no pretrained weights for {name}; name a .safetensors file by --weights")
    try:
        return Path(hf_hub_download(cfg.hf_hub_id, "model.safetensors"))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Cannot get the pretrained weights of {name} ({reason}); name a .safetensors file by --weights"
        ) from error


def _check_weights(path: Path, name: str) -> None:
    """Refuse a file that does not hold every weight of the network: timm would take what there is and say nothing."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is no .safetensors file; weights in other formats are not read")
    wanted = {key: list(value.shape) for key, value in _timm().create_model(name, num_classes=0).state_dict().items()}
    try:
        with safe_open(path, "pt") as file:
            found = {key: file.get_slice(key).get_shape() for key in file.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot read the weights {path}: {error}") from error
    wrong = sorted(key for key, shape in wanted.items() if found.get(key) != shape)
    if wrong:
        raise CheckpointError(f"{path} holds weights of another network than {name}: {wrong[0]} is not in it as wanted")
