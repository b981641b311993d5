"""Small networks of four families: strides, what one cell sees, stages, and that they learn."""

from __future__ import annotations

import pytest
import torch

from wsi_attn.errors import UnknownNameError, UsageError
from wsi_attn.nn.backbones import BACKBONES, build_backbone

NAMES = [name for name in BACKBONES.built_in if name.startswith("small")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(33, 40), (1, 7), (64, 64)])
def test_features_are_ceil_of_size_by_stride(name: str, size: tuple[int, int]) -> None:
    network = build_backbone(name, (8, 8, 16)).eval()
    assert network.stride == 8
    assert network(torch.zeros(2, 3, *size)).shape == (2, 16, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_cell_sees_its_halo_and_no_further(name: str, depth: int) -> None:
    torch.manual_seed(0)
    network = build_backbone(name, (8,) * depth).eval()
    pixels = torch.rand(1, 3, 192, 192, requires_grad=True)
    cell = 96 // network.stride
    network(pixels)[0, :, cell, cell].sum().backward()
    rows = torch.nonzero(pixels.grad.abs().sum(dim=(0, 1, 3)))[:, 0]
    assert network.halo is not None
    assert 96 - rows.min().item() <= network.halo
    assert rows.max().item() < 96 + network.stride + network.halo


@pytest.mark.parametrize("name", NAMES)
def test_stages_say_what_they_give_and_can_be_changed(name: str) -> None:
    torch.manual_seed(0)
    network = build_backbone(name, (8, 12, 16)).eval()
    pixels, seen = torch.rand(1, 3, 32, 32), {}
    plain = network(pixels)
    with network.watched({n: lambda output, n=n: seen.__setitem__(n, output) for n in (1, 2, 3)}):
        assert torch.equal(network(pixels), plain)
    for number, stage in enumerate(network.stages(), 1):
        assert seen[number].shape == (1, stage.channels, 32 // stage.stride, 32 // stage.stride)
    assert [stage.stride for stage in network.stages()] == [2, 4, 8]
    with network.watched({2: lambda output: output * 0}):
        changed = network(pixels)
    assert not torch.equal(changed, plain)
    assert torch.equal(network(pixels), plain)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    network = build_backbone(name, (8, 16))
    network(torch.randn(4, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert sum(parameter.grad.abs().sum() == 0 for parameter in network.parameters()) == 0


def test_an_inception_block_has_a_channel_for_every_branch() -> None:
    with pytest.raises(UsageError, match="at least 8"):
        build_backbone("small-googlenet", (4, 8))


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_backbone("densenet", (8,))
    assert "small-densenet" in caught.value.known
