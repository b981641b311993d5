"""The U-Nets that host joint attention: shapes, padding, halo, gradients, trained encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.timm_here import timm_or_skip, write_weights
from wsi_attn.errors import CheckpointError
from wsi_attn.nn.backbones import build_backbone
from wsi_attn.nn.dense_unet import LAYOUTS, DenseUNet, Layout
from wsi_attn.nn.joint_attention import ATTENTIONS
from wsi_attn.nn.unet import BackboneUNet, UNet

TINY = Layout(4, 4, (1, 1, 1, 1), (8, 8, 4, 4, 4), published="tiny")
ENCODERS = ("dense", "efficientnet-lite0")


def network(attention: str, classes: int = 3, encoder: str = "dense") -> UNet:
    torch.manual_seed(0)
    if encoder == "dense":
        return DenseUNet(TINY, classes, attention)
    return BackboneUNet(build_backbone(encoder, ()), classes, attention, 1, 0.0)


def picture(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_any_size_and_a_gradient_for_every_parameter(attention: str, encoder: str) -> None:
    built = network(attention, encoder=encoder)
    x = picture(70, 45)
    logits = built(x, torch.ones(2, 70, 45, dtype=torch.bool))
    assert logits.shape == (2, 3, 70, 45)
    logits.square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("attention", "encoder"), [("none", "dense"), ("pointwise", "dense"), ("pointwise", "efficientnet-lite0")]
)
def test_nothing_beyond_the_halo_is_seen(attention: str, encoder: str) -> None:
    built = network(attention, encoder=encoder).eval()
    halo = built.halo
    assert halo is not None
    side = 2 * halo + 64
    valid = torch.ones(1, side, side, dtype=torch.bool)
    x = picture(side, side, 1).requires_grad_()
    built(x, valid)[0, :, side // 2, side // 2].sum().backward()
    assert x.grad is not None
    rows, columns = x.grad[0].abs().sum(dim=0).nonzero().T
    reach = max(side // 2 - int(rows.min()), int(rows.max()) - side // 2, side // 2 - int(columns.min()))
    assert reach <= halo
    assert network("joint").halo is None


def test_padding_is_not_read_by_attention() -> None:
    built = network("self").eval()
    x, other = picture(64, 128, 1), picture(64, 128, 1)
    other[..., 96:] = 9
    valid = torch.ones(1, 64, 128, dtype=torch.bool)
    valid[..., 96:] = False
    seen: list[Tensor] = []
    hook = built.attentions[4].register_forward_hook(lambda module, given, result: seen.append(given[1]))
    with torch.no_grad():
        built.attentions[4].gamma.fill_(1)
        assert not torch.equal(built(x, valid), built(other, valid))  # convolutions see padding as any edge
    hook.remove()
    assert seen[0].tolist() == [[[True, True, True, False]] * 2]


def test_the_encoder_is_the_densenet_of_timm(tmp_path: Path) -> None:
    timm = timm_or_skip()
    write_weights(tmp_path / "weights.safetensors", "densenet121", seed=1)
    reference = timm.create_model("densenet121", checkpoint_path=str(tmp_path / "weights.safetensors")).eval()
    built = DenseUNet(LAYOUTS["densenet121"], 2, "none").eval()
    built.load(str(tmp_path / "weights.safetensors"))
    seen: list[Tensor] = []
    built.steps[0].register_forward_hook(lambda module, given, result: seen.append(given[0]))
    x = picture(64, 96, 1)
    with torch.inference_mode():
        built(x, torch.ones(1, 64, 96, dtype=torch.bool))
        torch.testing.assert_close(seen[0], reference.forward_features(x), rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.safetensors", "densenet121")
    with pytest.raises(CheckpointError, match="another network"):
        network("none").load(str(tmp_path / "weights.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="Cannot read"):
        network("none").load(str(tmp_path / "broken.safetensors"))
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        network("none").load(str(tmp_path / "weights.pth"))
