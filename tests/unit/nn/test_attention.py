"""Attention operators against hand-computed values and plain definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.nn.attention import AttendedMean, GatedAttention, masked_log_softmax, masked_softmax
from wsi_attn.nn.selection import TopCells, top_cells


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


def test_a_mean_in_parts_is_the_mean_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 9 * torch.randn(2, 3, 10, generator=generator)
    features, mask = torch.randn(2, 10, 4, generator=generator), torch.rand(2, 3, 10, generator=generator) < 0.6
    mask[:, :, :3] = False  # a part without a valid position comes first
    found = AttendedMean.empty(logits, 4)
    for part in (slice(0, 3), slice(3, 5), slice(5, 10)):
        found = found.merged(logits[..., part], features[:, part], mask[..., part])
    torch.testing.assert_close(found.mean, masked_softmax(logits, mask) @ features)
    nothing = AttendedMean.empty(logits, 4).merged(logits, features, torch.zeros_like(mask))
    assert torch.equal(nothing.mean, torch.zeros(2, 3, 4))


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


def test_two_heads_are_two_gates_over_shared_units() -> None:
    both = GatedAttention(4, 8, heads=2)
    bag = torch.randn(3, 6, 4)
    assert both(bag).shape == (3, 6, 2)
    for head in range(2):
        single = GatedAttention(4, 8)
        single.V, single.U = both.V, both.U
        with torch.no_grad():
            single.w.weight.copy_(both.w.weight[head : head + 1])
            single.w.bias.copy_(both.w.bias[head : head + 1])
        assert torch.allclose(single(bag)[..., 0], both(bag)[..., head])


def test_without_the_gate_only_tanh_is_left() -> None:
    gate = GatedAttention(4, 8, gated=False)
    bag = torch.randn(6, 4)
    assert torch.allclose(gate(bag), torch.tanh(bag @ gate.V.weight.T + gate.V.bias) @ gate.w.weight.T + gate.w.bias)
    assert not any(name.startswith("U") for name, _ in gate.named_parameters())


@given(st.lists(st.tuples(st.floats(-900, 900), st.booleans()), min_size=1, max_size=12))
def test_masked_log_softmax_is_the_logarithm(entries: list[tuple[float, bool]]) -> None:
    logits = torch.tensor([value for value, _ in entries], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([valid for _, valid in entries])
    found = masked_log_softmax(logits, mask)
    assert found.isfinite().all()
    assert torch.allclose(found.exp(), masked_softmax(logits, mask))
    assert torch.allclose(found[mask], torch.log_softmax(logits[mask], 0))
    found.exp().sum().backward()
    assert logits.grad.isfinite().all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_strongest_of_parts_are_those_of_the_whole(seed: int, count: int, parts: list[int]) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, features = torch.randn(2, 3, sum(parts), generator=random), torch.randn(2, sum(parts), 4, generator=random)
    logits[torch.rand(logits.shape, generator=random) < 0.3] = -torch.inf
    kept = TopCells.empty(logits, 4)
    for part, piece in zip(logits.split(parts, dim=2), features.split(parts, dim=1), strict=True):
        kept = kept.merged(part, piece, count)
    values, places = logits.topk(min(count, sum(parts)), dim=2)
    assert torch.equal(kept.logits, values)
    wanted = features[torch.arange(2)[:, None, None], places]
    assert torch.equal(kept.features[values.isfinite()], wanted[values.isfinite()])
