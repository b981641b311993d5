"""The small residual network: its stride, what one cell sees, and a bag's features under order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.nn.attention import GatedAttention, masked_softmax
from wsi_attn.nn.backbones import SmallResNet
from wsi_attn.nn.selection import top_cells


@settings(max_examples=20)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))
def test_features_are_ceil_of_size_by_stride(height: int, width: int, depth: int) -> None:
    network = SmallResNet((4,) * depth).eval()
    features = network(torch.zeros(1, 3, height, width))
    assert features.shape == (1, 4, -(-height // network.stride), -(-width // network.stride))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_cell_sees_its_halo_and_no_further(depth: int) -> None:
    """Gradient of one cell's features on the input: its first pixel lies `halo` before the cell."""
    torch.manual_seed(0)
    network = SmallResNet((6,) * depth).eval()
    pixels = torch.rand(1, 3, 128, 128, requires_grad=True)
    cell = 64 // network.stride
    network(pixels)[0, :, cell, cell].sum().backward()
    rows = torch.nonzero(pixels.grad.abs().sum(dim=(0, 1, 3)))[:, 0]
    assert 64 - rows.min().item() <= network.halo
    assert rows.max().item() < 64 + network.stride + network.halo


def test_pooled_bag_does_not_depend_on_order() -> None:
    torch.manual_seed(0)
    gate = GatedAttention(5, 7)
    bag, valid, order = torch.randn(9, 5), torch.rand(9) > 0.3, torch.randperm(9)

    def pooled(bag: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return masked_softmax(gate(bag)[:, 0], valid) @ bag

    assert torch.allclose(pooled(bag, valid), pooled(bag[order], valid[order]), atol=1e-6)


def test_softmax_of_an_empty_bag_has_a_finite_gradient() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    weights = masked_softmax(logits, torch.tensor([[True, True], [False, False]]))
    (weights * torch.tensor([1.0, 5.0])).sum().backward()
    assert weights[1].tolist() == [0, 0]
    assert logits.grad.isfinite().all()
    assert logits.grad[1].tolist() == [0, 0]


def test_half_precision_does_not_overflow() -> None:
    logits = torch.tensor([60000.0, -60000.0, 5.0], dtype=torch.float16)
    found = masked_softmax(logits, torch.tensor([False, True, True]))
    assert found.tolist() == [0, 0, 1]


def test_cells_of_one_score_are_taken_in_reading_order() -> None:
    everywhere = torch.ones(5, 6, dtype=torch.bool)
    found = top_cells(torch.zeros(5, 6), everywhere, 6, 2.0)
    assert found.tolist() == [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]
    assert torch.equal(found, top_cells(torch.zeros(5, 6), everywhere, 6, 2.0))


def test_no_valid_cell_gives_none() -> None:
    assert top_cells(torch.rand(3, 3), torch.zeros(3, 3, dtype=torch.bool), 4, 1.0).shape == (0, 2)


def test_few_channels_train_with_channels_last() -> None:
    """Gradients of a narrow network equal those of the plain layout: a strided 1x1 convolution would corrupt memory."""
    pixels = torch.rand(4, 3, 192, 192)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = SmallResNet((8, 8))
        network(pixels.to(memory_format=layout)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, last in zip(*gradients, strict=True):
        assert torch.allclose(plain, last, rtol=1e-3, atol=1e-5)
