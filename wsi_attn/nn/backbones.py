"""Registry of backbones: built-in small networks, any timm network, and those of other packages."""

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
from wsi_attn.nn.backbone import Backbone, BackboneFamily, BackboneOptions, Normalisation, Stage
from wsi_attn.nn.families import ResidualBlock
from wsi_attn.registry import Registry, unknown_name

SMALL, TIMM = "small", "timm"

BACKBONES: Registry[BackboneFamily] = Registry(
    "backbone",
    "wsi_attn.encoders",
    {
        SMALL: "wsi_attn.nn.backbones:SMALL_RESNET",
        "small-vgg": "wsi_attn.nn.families:VGG",
        "small-googlenet": "wsi_attn.nn.families:GOOGLENET",
        "small-resnet": "wsi_attn.nn.families:RESNET",
        "small-densenet": "wsi_attn.nn.families:DENSENET",
        "efficientnet-lite0": "wsi_attn.nn.efficientnet_lite:LITE0",
        "efficientnet-lite1": "wsi_attn.nn.efficientnet_lite:LITE1",
        "efficientnet-lite2": "wsi_attn.nn.efficientnet_lite:LITE2",
        TIMM: "wsi_attn.nn.backbones:TIMM_NETWORKS",
    },
    lambda member: isinstance(member, BackboneFamily),
)
"""All backbones by name."""

HEAD_STRIDE = 32
"""Stride from which the features include the layer before the classifier that a backbone was trained with."""


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
        # A block at input stride s reaches s pixels on each side with its first convolution and 2s with its second.
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
    """The feature maps of one stage of a timm network without later stages; weights are random until loaded.

    Its receptive field is unknown and may be the whole image (squeeze-and-excitation, self-attention): `halo` is
    None, and images are encoded as a whole.

    Parameters
    ----------
    name
        timm name, with or without the tag of its weights.
    largest_stride
        Use the deepest stage of at most this stride, or the first if all are coarser; None uses the last.

    Raises
    ------
    MissingExtraError : timm is not installed.
    UnknownNameError : timm has no such network.
    UsageError : the network returns no feature maps, or only for a fixed image size.
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
        """See `Backbone.stages`; timm lists the last of several blocks of one stride.

        Raises
        ------
        UsageError : its parts do not return feature maps.
        """
        records = self.network.feature_info.info[: self.stage + 1]
        return [
            Stage(_submodule(self.network, record["module"]), int(record["num_chs"]), int(record["reduction"]))
            for record in records
        ]

    @torch.no_grad()
    def _try_out(self) -> None:
        """Refuse a network with a fixed image size or another axis order."""
        shape = None
        with contextlib.suppress(AssertionError, RuntimeError):
            shape = tuple(self.network.eval()(torch.zeros(1, 3, 4 * self.stride, 6 * self.stride))[0].shape)
        if shape != (1, self.out_channels, 4, 6):
            raise UsageError(
                f"{TIMM}:{self.name} does not return feature maps for images of any size; choose another network"
            )
        self.network.train()

    def load(self, weights: str) -> None:
        """Load trained weights.

        Parameters
        ----------
        weights
            "pretrained" (timm's weights on the Hugging Face hub), or a `.safetensors` file with timm's names.

        Raises
        ------
        CheckpointError : the weights cannot be downloaded or read, or belong to another network.
        MissingExtraError : huggingface-hub is not installed.
        """
        path = pretrained_file(self.name) if weights == "pretrained" else Path(weights)
        _check_weights(path, self.name)
        source = _features_of(
            self.name, out_indices=(self.stage,), pretrained=True, pretrained_cfg_overlay={"file": str(path)}
        )
        self.network.load_state_dict(source.state_dict())


def build_backbone(
    name: str, widths: Sequence[int], largest_stride: int | None = None, *, head: bool = False
) -> Backbone:
    """Build a backbone by its name in `BACKBONES`, followed by ``:network`` where a family has several.

    Parameters
    ----------
    widths, largest_stride, head
        See `BackboneOptions`.

    Raises
    ------
    UnknownNameError : unknown backbone.
    MissingExtraError : timm is requested but not installed.
    """
    family, network = _family_of(name)
    return family.build(BackboneOptions(tuple(widths), network, largest_stride, head))


def normalisation_of(name: str) -> Normalisation | None:
    """Return the channel means and standard deviations, 0 to 1, that the weights of a backbone expect; None for
    networks that are trained from scratch, and for names that are no backbones.

    Raises
    ------
    MissingExtraError : timm is requested but not installed.
    UnknownNameError : timm has no such network.
    """
    if name.partition(":")[0] not in BACKBONES:
        return None
    family, network = _family_of(name)
    return family.normalisation(network)


def _family_of(name: str) -> tuple[BackboneFamily, str]:
    """Split ``family:network``; raises `UnknownNameError`."""
    first, colon, network = name.partition(":")
    if first in BACKBONES:
        family = BACKBONES.get(first)
        if family.networks == bool(colon):
            return family, network
    alone = [known for known in (*BACKBONES.built_in, *BACKBONES.plugins) if known != TIMM]
    raise UnknownNameError(
        f"Unknown backbone {name!r}; available: {', '.join(alone)} and {TIMM}:NAME", "backbone", name, alone
    )


def _timm_normalisation(network: str) -> Normalisation:
    cfg = _features_of(network, out_indices=(0,)).pretrained_cfg
    return tuple(cfg["mean"]), tuple(cfg["std"])


SMALL_RESNET = BackboneFamily(lambda options: SmallResNet(options.widths))

TIMM_NETWORKS = BackboneFamily(
    lambda options: TimmBackbone(options.network, options.largest_stride), _timm_normalisation, networks=True
)


def _timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision does not match torch
        raise MissingExtraError(
            f"Backbones of timm need timm, which cannot be loaded ({error}); pip install 'wsi-attn[encoders]'"
        ) from error
    module: ModuleType = timm
    return module


def timm_is_here() -> bool:
    """Return whether timm is installed."""
    try:
        _timm()
    except MissingExtraError:
        return False
    return True


def _submodule(network: Any, name: str) -> nn.Module:
    """Return a part of a timm network by timm's name; sequences may have been flattened."""
    for spelled in (name, name.replace(".", "_")):
        with contextlib.suppress(AttributeError):
            found: nn.Module = network.get_submodule(spelled)
            return found
    raise UsageError(f"This timm network has no stage {name} with a feature map as output; choose another network")


def _features_of(name: str, **options: Any) -> Any:
    """Create a timm network that returns feature maps."""
    timm = _timm()
    if not timm.is_model(name):
        raise unknown_name("timm network", name, timm.list_models())
    try:  # transformers need this for images of any size; other networks do not accept it
        return timm.create_model(name, features_only=True, dynamic_img_size=True, **options)
    except TypeError:
        return timm.create_model(name, features_only=True, **options)


def pretrained_file(name: str) -> Path:
    """Return the safetensors file of a timm network's weights, downloaded once through huggingface-hub."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError(
            "Pretrained weights need huggingface-hub; pip install 'wsi-attn[encoders]', or give a .safetensors file"
        ) from error
    cfg = _timm().get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        raise CheckpointError(f"timm has no pretrained weights for {name}; give a .safetensors file with --weights")
    try:
        return Path(hf_hub_download(cfg.hf_hub_id, "model.safetensors"))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Cannot get the pretrained weights of {name} ({reason}); give a .safetensors file with --weights"
        ) from error


def _check_weights(path: Path, name: str) -> None:
    """Refuse a file without all weights of the network; timm would load a partial file silently."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a .safetensors file; other formats are not supported")
    wanted = {key: list(value.shape) for key, value in _timm().create_model(name, num_classes=0).state_dict().items()}
    try:
        with safe_open(path, "pt") as file:
            found = {key: file.get_slice(key).get_shape() for key in file.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot read the weights {path}: {error}") from error
    wrong = sorted(key for key, shape in wanted.items() if found.get(key) != shape)
    if wrong:
        raise CheckpointError(
            f"{path} does not contain the weights of {name}: {wrong[0]} is missing or has another shape"
        )
