"""Attention operators against hand-computed values and plain definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.nn.attention import GatedAttention, masked_softmax
from wsi_attn.nn.selection import top_cells


def test_gated_attention_by_hand() -> None:
    """K = 3 instances of two features, L = 2 hidden units, all weights written out."""
    gate = GatedAttention(2, 2)
    with torch.no_grad():
        gate.V.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, -1.0]]))
        gate.V.bias.copy_(torch.tensor([0.1, -0.2]))
        gate.U.weight.copy_(torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
        gate.U.bias.copy_(torch.tensor([0.0, 0.3]))
        gate.w.weight.copy_(torch.tensor([[2.0, -1.0]]))
        gate.w.bias.copy_(torch.tensor([0.5]))
    bag = [(1.0, 0.0), (0.0, 1.0), (-1.0, 2.0)]

    def logit(a: float, b: float) -> float:
        first = math.tanh(a + 0.1) / (1 + math.exp(-2 * b))
        second = math.tanh(0.5 * a - b - 0.2) / (1 + math.exp(-(a + b + 0.3)))
        return 2 * first - second + 0.5

    assert gate(torch.tensor(bag))[:, 0].tolist() == pytest.approx([logit(*h) for h in bag], abs=1e-6)


def test_permuting_instances_permutes_attention() -> None:
    gate = GatedAttention(4, 8)
    bag, order = torch.randn(6, 4), torch.randperm(6)
    assert torch.allclose(gate(bag)[order], gate(bag[order]))
    same = masked_softmax(gate(bag[:1].expand(5, 4))[:, 0], torch.ones(5, dtype=torch.bool))
    assert torch.allclose(same, torch.full((5,), 0.2))


@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=12))
def test_masked_softmax_is_the_softmax_of_what_is_valid(entries: list[tuple[float, bool]]) -> None:
    logits = torch.tensor([value for value, _ in entries], dtype=torch.float64)
    mask = torch.tensor([valid for _, valid in entries])
    found = masked_softmax(logits, mask)
    assert not found.isnan().any()
    assert (found[~mask] == 0).all()
    if mask.any():
        assert torch.allclose(found[mask], torch.softmax(logits[mask], 0))
    else:
        assert found.sum() == 0


def test_padding_does_not_change_attention() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    padded = masked_softmax(torch.cat([logits, torch.full((1, 4), 99.0)], 1), torch.tensor([[True] * 3 + [False] * 4]))
    assert torch.allclose(padded[:, :3], masked_softmax(logits, torch.ones(1, 3, dtype=torch.bool)))


def plain_top_cells(scores: list[list[float]], mask: list[list[bool]], count: int, radius: float) -> list[list[int]]:
    """The definition, cell by cell."""
    taken: list[list[int]] = []
    cells = [(-scores[r][c], r, c) for r in range(len(scores)) for c in range(len(scores[0])) if mask[r][c]]
    for _, row, column in sorted(cells):
        if len(taken) < count and all(abs(row - r) >= radius or abs(column - c) >= radius for r, c in taken):
            taken.append([row, column])
    return taken


@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_top_cells_equals_its_definition(
    data: st.DataObject, rows: int, columns: int, count: int, radius: float
) -> None:
    values = st.lists(st.lists(st.integers(0, 4), min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    flags = st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=rows, max_size=rows)
    scores, mask = data.draw(values), data.draw(flags)
    found = top_cells(torch.tensor(scores, dtype=torch.float32), torch.tensor(mask), count, radius)
    assert found.tolist() == plain_top_cells(scores, mask, count, radius)
    assert found.shape[1] == 2
