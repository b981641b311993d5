"""Attention over a bag: masked softmax and the gated score of Ilse et al.

Letters: B slides, N instances (padded), D features, L hidden units.
"""

from __future__ import annotations

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
    float (..., N): at least 0, 0 where invalid, summing to 1; all 0 where nothing is valid, never NaN.
    """
    lowest = torch.finfo(logits.dtype).min
    weights = torch.softmax(logits.masked_fill(~mask, lowest), dim=-1)
    return weights * mask  # a fully masked bag: uniform, then zero


class GatedAttention(nn.Module):
    """Attention logit of every instance.

    e_n = w^T ( tanh(V h_n + b_V) * sigmoid(U h_n + b_U) ) + b_w

    Equation 9 of Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, with
    the biases of its reference code.
    """

    def __init__(self, in_features: int, hidden: int = 128) -> None:
        super().__init__()
        self.V = nn.Linear(in_features, hidden)
        self.U = nn.Linear(in_features, hidden)
        self.w = nn.Linear(hidden, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Float (..., N, D) to logits (..., N)."""
        gated = torch.tanh(self.V(h)) * torch.sigmoid(self.U(h))  # (..., N, L)
        logits: Tensor = self.w(gated).squeeze(-1)
        return logits
