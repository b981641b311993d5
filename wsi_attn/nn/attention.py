"""Attention over a bag: masked softmax and the gated score of Ilse et al.

Letters: B slides, N instances (padded), D features, L hidden units, J attention maps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the valid entries of the last axis.

    Parameters
    ----------
    logits
        float (..., N).
    mask
        bool (..., N), True where an entry is valid.

    Returns
    -------
    float (..., N): nonnegative, 0 where invalid, summing to 1; all 0 if no entry is valid, never NaN.
    """
    lowest = torch.finfo(logits.dtype).min
    weights = torch.softmax(logits.masked_fill(~mask, lowest), dim=-1)
    return weights * mask  # a fully masked bag: uniform, then zero


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of `masked_softmax`, accurate where the softmax underflows.

    Returns
    -------
    float (..., N); the lowest finite value where invalid, so that sums and gradients stay finite.
    """
    lowest = torch.finfo(logits.dtype).min
    return torch.log_softmax(logits.masked_fill(~mask, lowest), dim=-1).masked_fill(~mask, lowest)


class AttendedMean(NamedTuple):
    """Mean of the positions so far, weighted by the softmax of J maps, without keeping their features.

    Attributes
    ----------
    log_total
        float (B, J), log of the sum of the weights; the lowest finite value before any valid position.
    mean
        float (B, J, D).
    """

    log_total: Tensor
    mean: Tensor

    @staticmethod
    def empty(maps: Tensor, channels: int) -> AttendedMean:
        """Return the mean of no position, for maps (B, J, ...) and D features."""
        nothing = maps.new_full(maps.shape[:2], torch.finfo(maps.dtype).min)
        return AttendedMean(nothing, maps.new_zeros((*maps.shape[:2], channels)))

    def merged(self, logits: Tensor, features: Tensor, mask: Tensor) -> AttendedMean:
        """Merge further positions; differentiable in both.

        Parameters
        ----------
        logits
            float (B, J, n).
        features
            float (B, n, D).
        mask
            bool (B, J, n), valid positions.
        """
        lowest = torch.finfo(logits.dtype).min
        totals = torch.stack([self.log_total, logits.masked_fill(~mask, lowest).logsumexp(dim=2)])
        old, new = totals.softmax(dim=0)[..., None]
        found = torch.einsum("bjn,bnd->bjd", masked_softmax(logits, mask), features)
        return AttendedMean(totals.logsumexp(dim=0).clamp(min=lowest), old * self.mean + new * found)


class GatedAttention(nn.Module):
    """Attention logits of every instance for each of J maps.

    e_nj = w_j^T ( tanh(V h_n + b_V) * sigmoid(U h_n + b_U) ) + b_j

    Equation 9 of Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, with
    the biases of its reference code, whose parallel branches share V and U as here.

    Parameters
    ----------
    in_features
        D.
    hidden
        L.
    heads
        J.
    gated
        If False, omit the sigmoid gate: equation 8 of the paper.
    """

    def __init__(self, in_features: int, hidden: int = 128, heads: int = 1, *, gated: bool = True) -> None:
        super().__init__()
        self.V = nn.Linear(in_features, hidden)
        self.U = nn.Linear(in_features, hidden) if gated else None
        self.w = nn.Linear(hidden, heads)

    def forward(self, h: Tensor) -> Tensor:
        """Float (..., N, D) to logits (..., N, J)."""
        units = torch.tanh(self.V(h))  # (..., N, L)
        if self.U is not None:
            units = units * torch.sigmoid(self.U(h))
        logits: Tensor = self.w(units)
        return logits
