"""Attention sampling: draw positions from an attention map and estimate the expectation under the full map.

Katharopoulos, Fleuret, "Processing Megapixel Images with Deep Attention-Sampling Models", ICML 2019, arXiv 1905.03711.
The estimate is of Phi = sum_t a_t f_t; only the f_t of drawn positions are computed.

Letters: B slides, T positions, K draws, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smoothed(log_attention: Tensor, mask: Tensor, share: float) -> Tensor:
    """Mix the attention with the uniform distribution over valid positions: a <- (1 - s) a + s / n.

    Every position keeps a nonzero probability, however peaked the attention is.

    Parameters
    ----------
    log_attention
        float (..., T), normalised over `mask`.
    mask
        bool (..., T), n valid positions.
    share
        s, 0 (unchanged) to 1 (uniform).

    Returns
    -------
    float (..., T), normalised; the lowest finite value where invalid.
    """
    if share == 0:
        return log_attention
    count = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    kept = math.log1p(-share) if share < 1 else -math.inf
    even = (math.log(share) - count.log()).to(log_attention.dtype)
    mixed = torch.logaddexp(log_attention + kept, even.expand_as(log_attention))
    return mixed.masked_fill(~mask, torch.finfo(mixed.dtype).min)


def perturbed(log_weights: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return Gumbel-perturbed log weights; their descending order is a draw without replacement.

    The first is drawn with probability proportional to its weight, the second among the rest likewise, and so on
    (Yellott 1977; Kool, van Hoof, Welling, ICML 2019). Only valid positions consume randomness, so padding changes
    no draw.

    Parameters
    ----------
    log_weights
        float (T,), up to a constant.
    mask
        bool (T,).
    generator
        CPU generator.

    Returns
    -------
    float64 (T,), -inf where invalid, without gradient.
    """
    positions = mask.nonzero()[:, 0]
    uniform = torch.rand(len(positions), generator=generator, dtype=torch.float64).clamp_(min=1e-300)
    noise = -torch.log(-torch.log(uniform)).to(log_weights.device)
    scores = torch.full(mask.shape, -torch.inf, dtype=torch.float64, device=log_weights.device)
    scores[positions] = log_weights.detach().double()[positions] + noise
    return scores


def draw(log_weights: Tensor, mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw positions without replacement, in drawing order: int64 (k,), k = min(count, valid positions)."""
    count = min(count, int(mask.sum()))
    return perturbed(log_weights, mask, generator).topk(count).indices


def prefix_estimates(log_attention: Tensor, picked: Tensor, drawn: Tensor, features: Tensor) -> Tensor:
    """Return one estimate of Phi from each draw and its predecessors; each is unbiased given its predecessors.

    F_k = sum_{j<k} a_j f_j + R_k f_k,   R_k = 1 - sum_{j<k} a_j

    The positions before k are counted exactly, and the k-th represents the remaining mass. The gradient is
    unbiased as well, because the remaining mass is excluded from it:

    F_k = sum_{j<k} a_j f_j + stopgrad(R_k / a_k) a_k f_k

    This is not the backward pass of the reference code, which is biased for K > 1.

    Parameters
    ----------
    log_attention
        float (B, T), normalised over the positions that could have been drawn.
    picked
        int64 (B, K), drawn positions in the order of drawing.
    drawn
        bool (B, K), False for padding.
    features
        float (B, K, D), f of the drawn positions.

    Returns
    -------
    float (B, K, D), 0 where not drawn.

    Notes
    -----
    R_k is summed from the remaining positive terms, so that it is never negative for peaked attention. The
    factor stopgrad(R_k / a_k) a_k is written R_k exp(log a_k - stopgrad(log a_k)), which avoids a division.
    """
    log_drawn = log_attention.gather(1, picked)  # (B, K)
    mass = log_drawn.exp() * drawn
    seen = torch.zeros_like(log_attention).scatter_add_(1, picked, drawn.to(log_attention.dtype)) > 0
    rest = log_attention.detach().exp().masked_fill(seen, 0).sum(dim=1, keepdim=True)  # (B, 1)
    remaining = rest + mass.detach().flip(1).cumsum(dim=1).flip(1)  # (B, K), R_k
    stand_in = remaining * torch.exp(log_drawn - log_drawn.detach()) * drawn
    counted = mass.to(features.dtype)[..., None] * features  # (B, K, D)
    before = counted.cumsum(dim=1) - counted
    return (before + stand_in.to(features.dtype)[..., None] * features) * drawn[..., None]


def sampled_expectation(log_attention: Tensor, picked: Tensor, drawn: Tensor, features: Tensor) -> Tensor:
    """Mean of `prefix_estimates` over the draws: float (B, D), 0 where nothing was drawn."""
    estimates = prefix_estimates(log_attention, picked, drawn, features)
    return estimates.sum(dim=1) / drawn.sum(dim=1, keepdim=True).clamp(min=1)
