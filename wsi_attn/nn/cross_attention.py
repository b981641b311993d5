"""Cross-attention between two feature grids in both directions, with a bounded number of keys.

Letters: B images, D features, h x w cells of the one grid, h' x w' of the other, N tokens of a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.nn.gates import GATE_START, Gated


class CrossAttention(Gated):
    """Queries of one grid attend to keys and values of the other.

    E' = E + gamma O[ softmax( (E W_q)(R W_k)^T / sqrt(d) ) (R W_v) ]

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1, with queries of one grid, keys and values of
    another, and a gate gamma that starts at 0.1, so that training starts near E' = E and teaches the projections.

    Parameters
    ----------
    width
        D, of both grids.
    heads
        Divides D; d is D / heads.
    most_keys
        Maximum number of keys: larger grids are first averaged over areas. Memory then grows only with
        the number of queries.
    """

    gate_names = ("gamma",)

    def __init__(self, width: int, heads: int, most_keys: int) -> None:
        super().__init__()
        self.heads, self.most_keys = heads, most_keys
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.gamma = nn.Parameter(torch.tensor(GATE_START))

    def __call__(self, asking: Tensor, answering: Tensor, allowed: Tensor) -> Tensor:
        """`forward`, with its type."""
        found: Tensor = super().__call__(asking, answering, allowed)
        return found

    def forward(self, asking: Tensor, answering: Tensor, allowed: Tensor) -> Tensor:
        """E', float (B, D, h, w).

        Parameters
        ----------
        asking, answering
            Float (B, D, h, w) and (B, D, h', w').
        allowed
            bool (B, h', w'), cells that may serve as keys; all if an image has none.
        """
        keys, mask = pooled_tokens(answering, allowed, self.most_keys)
        q, k, v = self.query(tokens(asking)), self.key(keys), self.value(keys)
        attended = functional.scaled_dot_product_attention(
            self._split(q), self._split(k), self._split(v), attn_mask=mask[:, None, None, :]
        )
        merged = self.out(attended.transpose(1, 2).flatten(2))  # (B, N, D)
        found: Tensor = asking + self.gamma * merged.transpose(1, 2).reshape(asking.shape)
        return found

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, d)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class TwoWay(nn.Module):
    """Cross-attention in both directions, each with its own projections."""

    def __init__(self, width: int, heads: int, most_keys: int) -> None:
        super().__init__()
        self.first = CrossAttention(width, heads, most_keys)
        self.second = CrossAttention(width, heads, most_keys)

    def __call__(self, e: Tensor, r: Tensor, allowed_e: Tensor, allowed_r: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, with its type."""
        found: tuple[Tensor, Tensor] = super().__call__(e, r, allowed_e, allowed_r)
        return found

    def forward(self, e: Tensor, r: Tensor, allowed_e: Tensor, allowed_r: Tensor) -> tuple[Tensor, Tensor]:
        """E' and R' of two grids, float (B, D, h, w) and (B, D, h', w'); the allowed cells of each, bool (B, h, w)."""
        return self.first(e, r, allowed_r), self.second(r, e, allowed_e)


def tokens(grid: Tensor) -> Tensor:
    """Float (B, D, h, w) to (B, h w, D), row by row."""
    return grid.flatten(2).transpose(1, 2)


def pooled_tokens(grid: Tensor, allowed: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Average a grid to at most `most` tokens, each the mean of the allowed cells of an area.

    Returns
    -------
    Float (B, N, D), and bool (B, N), tokens with an allowed cell; all if an image has none.
    """
    height, width = grid.shape[2:]
    share = min(1.0, (most / (height * width)) ** 0.5)
    shape = max(1, min(most, int(height * share))), max(1, min(most, int(width * share)))
    weights = allowed[:, None].to(grid.dtype)
    if shape != (height, width):
        counted = functional.adaptive_avg_pool2d(weights, shape)
        grid = functional.adaptive_avg_pool2d(grid * weights, shape) / counted.clamp(min=1e-6)
        weights = counted
    mask = weights.flatten(1) > 0
    return tokens(grid), mask | ~mask.any(dim=1, keepdim=True)
