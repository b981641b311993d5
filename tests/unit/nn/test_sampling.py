"""The sampled estimator against exact enumeration over ordered draws, and the draws against their definition."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from wsi_attn.nn.attention import masked_log_softmax
from wsi_attn.nn.sampling import draw, perturbed, prefix_estimates, sampled_expectation, smoothed

POSITIONS, DRAWS, WIDTH = 5, 3, 4


def problem(scale: float, seed: int, positions: int = POSITIONS) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (T,), unit-norm features (T, D), upstream gradient (D,), all float64."""
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(positions, generator=random, dtype=torch.float64)
    features = torch.randn(positions, WIDTH, generator=random, dtype=torch.float64)
    upstream = torch.randn(WIDTH, generator=random, dtype=torch.float64)
    return logits.requires_grad_(), torch.nn.functional.normalize(features, dim=1).requires_grad_(), upstream


def ordered_draws(attention: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Every ordered draw without replacement, int64 (S, N), and its probability, by its definition."""
    orders = list(itertools.permutations(range(len(attention)), count))
    chances = []
    for order in orders:
        chance, left = 1.0, set(range(len(attention)))
        for position in order:
            chance *= attention[position].item() / sum(attention[other].item() for other in left)
            left.remove(position)
        chances.append(chance)
    return torch.tensor(orders), torch.tensor(chances, dtype=torch.float64)


def estimate(logits: Tensor, features: Tensor, orders: Tensor) -> Tensor:
    """The estimator for each of S draws: (S, D)."""
    log_attention = torch.log_softmax(logits, 0).expand(len(orders), -1)
    return sampled_expectation(log_attention, orders, torch.ones_like(orders, dtype=torch.bool), features[orders])


@pytest.mark.parametrize("draws", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_of_the_estimator_and_of_its_gradients_are_exact(scale: float, draws: int, seed: int) -> None:
    logits, features, upstream = problem(scale, seed)
    attention = torch.softmax(logits, 0)
    exact = attention @ features
    wanted = torch.autograd.grad(exact @ upstream, (logits, features), retain_graph=True)
    orders, chances = ordered_draws(attention.detach(), draws)
    assert chances.sum().item() == pytest.approx(1, abs=1e-12)
    found = estimate(logits, features, orders)
    assert (chances @ found - exact).abs().max() < 1e-10
    gradients = torch.autograd.grad(chances @ (found @ upstream), (logits, features))
    for gradient, true in zip(gradients, wanted, strict=True):
        assert (gradient - true).abs().max() < 1e-10


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_drawn_estimates_agree_within_their_standard_error(scale: float) -> None:
    logits, features, upstream = problem(scale, 3)
    attention = torch.softmax(logits, 0)
    random, everywhere = torch.Generator().manual_seed(0), torch.ones(POSITIONS, dtype=torch.bool)
    orders = torch.stack([draw(attention.log(), everywhere, DRAWS, random) for _ in range(2000)])
    apart = logits.detach().repeat(len(orders), 1).requires_grad_()  # one copy a draw: one gradient a draw
    taken = torch.ones_like(orders, dtype=torch.bool)
    found = sampled_expectation(torch.log_softmax(apart, 1), orders, taken, features[orders])
    (gradient,) = torch.autograd.grad((found @ upstream).sum(), apart)
    (wanted,) = torch.autograd.grad(attention @ features @ upstream, logits)
    for sample, exact in ((found.detach(), (attention @ features).detach()), (gradient, wanted)):
        error = sample.std(dim=0) / math.sqrt(len(sample))
        assert ((sample.mean(dim=0) - exact).abs() < 4.5 * error + 1e-12).all()


def test_gradient_has_the_closed_form_of_its_draw() -> None:
    """(1/N) (R_i / a_i + N - 1 - i) <g, f_i> to a_i, with R_i the mass not drawn before i."""
    _, features, upstream = problem(1.0, 4)
    attention = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05], dtype=torch.float64, requires_grad=True)
    order = torch.tensor([[3, 1, 4]])
    estimates = sampled_expectation(attention.log()[None], order, torch.ones(1, 3, dtype=torch.bool), features[order])
    (found,) = torch.autograd.grad(estimates[0] @ upstream, attention)
    for rank, (position, remaining) in enumerate([(3, 1.0), (1, 0.75), (4, 0.35)]):
        factor = (remaining / attention[position].item() + 2 - rank) / 3
        assert found[position].item() == pytest.approx(factor * (features[position] @ upstream).item(), rel=1e-12)
    assert found[[0, 2]].tolist() == [0, 0]


def test_one_draw_is_the_same_with_and_without_replacement() -> None:
    logits, features, upstream = problem(1.0, 5)
    attention = torch.softmax(logits, 0)
    found = estimate(logits, features, torch.tensor([[2]]))[0]
    assert torch.allclose(found, features[2])
    (gradient,) = torch.autograd.grad(found @ upstream, logits, retain_graph=True)
    score = torch.log(attention[2]) * (features[2] @ upstream).detach()  # f d log a
    assert torch.allclose(gradient, torch.autograd.grad(score, logits)[0])


def test_last_prefix_estimate_of_all_positions_is_the_expectation() -> None:
    logits, features, _ = problem(2.0, 6)
    order = torch.tensor([[4, 0, 2, 1, 3]])
    drawn = torch.ones(1, 5, dtype=torch.bool)
    found = prefix_estimates(torch.log_softmax(logits, 0)[None], order, drawn, features[order])
    assert torch.allclose(found[0, -1], torch.softmax(logits, 0) @ features, atol=1e-14)
    assert torch.allclose(found[0, 0], features[4])


def test_variance_is_below_that_of_draws_with_replacement() -> None:
    for seed in range(20):
        logits, features, _ = problem(1.0, seed)
        attention, features = torch.softmax(logits, 0).detach(), features.detach()
        exact = attention @ features
        orders, chances = ordered_draws(attention, DRAWS)
        without = chances @ (estimate(logits.detach(), features, orders) - exact).square().sum(dim=1)
        replaced = (attention @ features.square().sum(dim=1) - exact @ exact) / DRAWS
        assert without < 0.7 * replaced


def test_attention_on_one_position_stays_finite_and_exact() -> None:
    logits = torch.tensor([900.0, 0.0, -50.0, -900.0], dtype=torch.float64, requires_grad=True)
    features = torch.eye(4, dtype=torch.float64, requires_grad=True)
    found = estimate(logits, features, torch.tensor([[0, 1, 2], [3, 0, 1]]))
    assert found[0].tolist() == pytest.approx([1, 0, 0, 0])
    gradients = torch.autograd.grad(found.sum(), (logits, features))
    assert all(gradient.isfinite().all() for gradient in gradients)
    # The remaining mass after a near-certain draw is far below what 1 - a could say.
    near = torch.tensor([45.0, 0.0, 0.0], dtype=torch.float64)
    estimates = prefix_estimates(
        torch.log_softmax(near, 0)[None], torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool),
        torch.eye(3, dtype=torch.float64)[None],
    )  # fmt: skip
    assert estimates[0, 1, 1].item() == pytest.approx(2 * math.exp(-45), rel=1e-9)


def test_padding_of_positions_and_draws_changes_nothing() -> None:
    logits, features, _ = problem(1.0, 7)
    order = torch.tensor([[1, 3]])
    alone = sampled_expectation(torch.log_softmax(logits, 0)[None], order, order >= 0, features[order])
    mask = torch.tensor([[True] * 5 + [False] * 3])
    log_attention = masked_log_softmax(torch.cat([logits, logits.new_full((3,), 9.0)])[None], mask)
    padded = torch.tensor([[1, 3, 0, 0]])
    drawn = torch.tensor([[True, True, False, False]])
    found = sampled_expectation(log_attention, padded, drawn, torch.cat([features, features])[padded])
    assert torch.allclose(found, alone)


def test_no_draw_gives_zero_and_a_finite_gradient() -> None:
    log_attention = masked_log_softmax(torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.bool))
    features = torch.ones(1, 2, 3, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    found = sampled_expectation(log_attention, torch.zeros(1, 2, dtype=torch.int64), nothing, features)
    found.sum().backward()
    assert found.tolist() == [[0, 0, 0]]
    assert features.grad.abs().sum() == 0


def test_draws_follow_sequential_sampling() -> None:
    attention = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    random, everywhere = torch.Generator().manual_seed(0), torch.ones(4, dtype=torch.bool)
    found = [tuple(draw(attention.log(), everywhere, 2, random).tolist()) for _ in range(3000)]
    orders, chances = ordered_draws(attention, 2)
    counts = [found.count(tuple(order)) for order in orders.tolist()]
    assert scipy.stats.chisquare(counts, (3000 * chances).tolist()).pvalue > 1e-3


def test_draws_are_distinct_valid_and_as_many_as_there_are() -> None:
    mask = torch.tensor([True, False, True, True, False])
    found = draw(torch.zeros(5), mask, 10, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == [0, 2, 3]
    assert draw(torch.zeros(5), ~mask & mask, 3, torch.Generator().manual_seed(0)).shape == (0,)


def test_invalid_positions_consume_no_randomness() -> None:
    weights = torch.tensor([0.3, -1.0, 2.0])
    alone = perturbed(weights, torch.ones(3, dtype=torch.bool), torch.Generator().manual_seed(1))
    mask = torch.tensor([True, True, False, False, True])
    padded = perturbed(torch.tensor([0.3, -1.0, 7.0, 7.0, 2.0]), mask, torch.Generator().manual_seed(1))
    assert torch.equal(padded[mask], alone)
    assert (padded[~mask] == -torch.inf).all()


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.25, 1.0])
def test_smoothing_is_a_mixture_with_the_uniform(share: float) -> None:
    logits = torch.tensor([[3.0, -2.0, 700.0, 0.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, True]])
    found = smoothed(masked_log_softmax(logits, mask), mask, share)
    wanted = (1 - share) * torch.softmax(logits[:, [0, 1, 3]], 1) + share / 3
    assert torch.allclose(found[:, [0, 1, 3]].exp(), wanted, rtol=1e-12)
    assert found[0, 2].exp() == 0
    found[mask].sum().backward()
    assert logits.grad.isfinite().all()
