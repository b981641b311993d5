"""Backbones of timm: stage, shapes, weights from a file, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.timm_here import NETWORK, timm_or_skip, write_weights
from wsi_attn.errors import CheckpointError, MissingExtraError, UnknownNameError, UsageError
from wsi_attn.nn.backbones import TimmBackbone, build_backbone, normalisation_of


@pytest.fixture
def timm() -> ModuleType:
    return timm_or_skip()


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", [NETWORK, "test_convnext", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize(("height", "width"), [(160, 96), (97, 130), (5, 40)])
def test_features_are_ceil_of_size_by_stride(name: str, height: int, width: int) -> None:
    network = build_backbone(f"timm:{name}", (), 16).eval()
    assert network.stride == 16
    features = network(torch.rand(2, 3, height, width))
    assert features.shape == (2, network.out_channels, -(-height // 16), -(-width // 16))
    assert network.halo is None


@pytest.mark.usefixtures("timm")
def test_the_last_stage_is_taken_where_no_stride_is_asked_for() -> None:
    network = build_backbone(f"timm:{NETWORK}", ())
    assert network.stride == 32
    assert network.training


def test_weights_of_a_file_give_timms_own_features(timm: ModuleType, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w.safetensors", seed=3)
    network = TimmBackbone(NETWORK, 16).eval()
    pixels = torch.rand(1, 3, 64, 96)
    before = network(pixels)
    network.load(str(tmp_path / "w.safetensors"))
    reference = timm.create_model(NETWORK, pretrained=False)
    reference.load_state_dict(weights)
    wanted = reference.eval().forward_intermediates(pixels, intermediates_only=True)[3]
    assert torch.allclose(network(pixels), wanted, atol=1e-6)
    assert not torch.allclose(before, wanted, atol=1e-3)


def test_normalisation_is_that_of_the_weights(timm: ModuleType) -> None:
    assert normalisation_of("timm:resnet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalisation_of("small") is None


@pytest.mark.usefixtures("timm")
def test_names_that_there_are_not() -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_backbone("timm:resnet81", (), 16)
    assert "resnet18" in caught.value.known
    with pytest.raises(UnknownNameError) as caught:
        build_backbone("resnet", (8,))
    assert caught.value.name == "resnet"
    with pytest.raises(UsageError, match="any size"):
        TimmBackbone("swin_tiny_patch4_window7_224", 16)  # its features have the channels last


@pytest.mark.parametrize("damage", ["other", "cut", "suffix", "none"])
def test_files_that_are_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path)
    if damage == "other":
        weights = load_file(path)
        weights["layer1.0.conv1.weight"] = torch.zeros(3)
        save_file(weights, path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "suffix":
        path = path.rename(tmp_path / "w.bin")
    else:
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        TimmBackbone(NETWORK, 16).load(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"wsi-attn\[encoders\]"):
        build_backbone("timm:resnet18", ())


@pytest.mark.usefixtures("timm")
def test_pretrained_without_the_hub_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="huggingface-hub"):
        TimmBackbone(NETWORK, 16).load("pretrained")
