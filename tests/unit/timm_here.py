"""timm where it is installed, and small weights of it; for tests that use it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

NETWORK = "test_resnet"
"""timm's own network for tests: a fifth of a million weights, strides to 32."""

_declared: list[Any] = []


def timm_or_skip() -> ModuleType:
    """timm, or a skip that says why."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install 'wsi-attn[encoders]'")
    try:
        import timm
    except RuntimeError:  # torchvision's compiled operators do not fit this torch; timm needs only that they are named
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)  # gone with the object
        import timm
    return timm


def write_weights(path: Path, name: str = NETWORK, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a timm network as a safetensors file, and the weights."""
    torch.manual_seed(seed)
    weights = timm_or_skip().create_model(name, pretrained=False).state_dict()
    save_file(weights, path)
    return weights
