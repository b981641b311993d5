"""Point-wise attention, self-attention and their joint form in one formula.

Zhang, Dong, Li, "Joint attention for medical image segmentation", ISBI 2022, states that one formula covers both kinds
and that the combined module localises as well as the first and has the reach of the second. Its formula is not public;
this is the linear form that contains both. Features x_i at N positions become

    y_i = sum_j W_ij v_j,   v_j = W_v x_j,   x_i + gamma Norm(W_o y_i),   gamma starts at 0.1

    s_i = sigmoid(w^T h_i),   h_i = ReLU(Norm(W_h x_i))          a gate, N numbers
    A   = softmax over j of q_i^T k_j / sqrt(d)                   N^2 numbers, rows sum to 1

    pointwise    W = diag(s)
    self         W = A
    joint        W = diag(s) + beta A, beta learned from 1: neither kind can suppress the other
    gate-query   W = diag(s) A, the gate selects where context is written
    gate-key     W = A diag(s), the gate selects what is read
    log-bias     W = gate-key, rows divided by their sums

From 0, gamma and beta would give W_q and W_k no gradient, and the global branch would stay off.

Memory. A is never stored: queries are processed in blocks of `CHUNK` and recomputed in the backward pass, with
identical results. Up to `MAX_KEYS` positions this is exact. Beyond that, keys and values are averaged over squares of
the grid, weighted by the number of positions: exact for equal keys within a square, otherwise an approximation.

Letters: B images, C channels, H x W = N positions, M keys, d units of a query.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wsi_attn.errors import UsageError
from wsi_attn.nn.gates import GATE_START, Gated
from wsi_attn.registry import unknown_name

NONE, POINTWISE, SELF, JOINT, GATE_QUERY, GATE_KEY, LOG_BIAS = (
    "none",
    "pointwise",
    "self",
    "joint",
    "gate-query",
    "gate-key",
    "log-bias",
)
ATTENTIONS = (NONE, POINTWISE, SELF, JOINT, GATE_QUERY, GATE_KEY, LOG_BIAS)

CHUNK = 1024
"""Queries that are compared with all keys at once: 16 MB for one image and head in float32."""

MAX_KEYS = 4096
"""Positions that are kept as keys one by one: the 1/16 grid of 1024 x 1024 pixels."""

LEAST_UNITS = 16
"""Least d; else an eighth of the channels."""

MOMENTUM = 0.01
"""Of the running mean of the gate."""


class JointAttention(Gated):
    """One of `ATTENTIONS` over a feature grid; every kind starts near the identity.

    Parameters
    ----------
    channels
        C.
    kind
        "none" has no parameters and changes nothing.
    heads
        Heads of the self-attention part; C and d are split evenly among them.

    Attributes
    ----------
    beta
        Weight of the self part of "joint"; None for other kinds.
    gate_mean
        Running mean of the gate over the training images; 0.5 initially and without a gate.

    Raises
    ------
    UnknownNameError : unknown kind.
    UsageError : heads that do not divide the channels.
    """

    gate_names = ("beta", "gamma")

    def __init__(self, channels: int, kind: str, heads: int = 1) -> None:
        super().__init__()
        if kind not in ATTENTIONS:
            raise unknown_name("attention", kind, ATTENTIONS)
        units = max(channels // 8, LEAST_UNITS)
        if heads < 1 or channels % heads or units % heads:
            raise UsageError(f"{heads} heads do not divide the {channels} channels and {units} units of the attention")
        self.kind, self.heads = kind, heads
        self.gate_mean: Tensor
        self.register_buffer("gate_mean", torch.tensor(0.5))
        self.gate = None if kind in (NONE, SELF) else _gate(channels)
        self.query = self.key = None
        if kind not in (NONE, POINTWISE):
            self.query = nn.Conv2d(channels, units, 1, bias=False)
            self.key = nn.Conv2d(channels, units, 1, bias=False)
        self.beta = nn.Parameter(torch.ones(())) if kind == JOINT else None
        if kind != NONE:
            self.value = nn.Conv2d(channels, channels, 1, bias=False)
            self.output = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
            self.gamma = nn.Parameter(torch.tensor(GATE_START))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features after attention.

        Parameters
        ----------
        x
            float (B, C, H, W).
        valid
            bool (B, H, W), positions that may serve as keys (not padding). All by default.

        Returns
        -------
        float (B, C, H, W).
        """
        if self.kind == NONE:
            return x
        y = self.attended(x, valid)
        out: Tensor = x + self.gamma * self.output(y)
        return out

    def attended(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return y of the formula, before the residual: float (B, C, H, W)."""
        v: Tensor = self.value(x)
        log_s = functional.logsigmoid(self.gate(x)) if self.gate is not None else None  # (B, 1, H, W)
        if log_s is not None and self.training:
            self.gate_mean.lerp_(log_s.detach().exp().mean().to(self.gate_mean), MOMENTUM)
        if self.query is None or self.key is None:
            return v if log_s is None else log_s.exp() * v
        mask = torch.ones_like(x[:, :1]) if valid is None else valid[:, None].to(x.dtype)
        weight = mask  # of each position among the keys
        if log_s is not None and self.kind in (GATE_KEY, LOG_BIAS):
            values, weight = v * log_s.exp(), mask * log_s.exp() if self.kind == LOG_BIAS else mask
        else:
            values = v
        context = self._context(self.query(x), self.key(x), values, mask, weight)
        if log_s is None or self.kind in (GATE_KEY, LOG_BIAS):
            return context
        if self.beta is not None:
            return log_s.exp() * v + self.beta * context
        return log_s.exp() * context

    def _context(self, q: Tensor, k: Tensor, values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """sum_j A_ij values_j, where A also multiplies the keys by `weight` before its rows are normalised.

        Values of "log-bias" already contain the gate and are divided by it in the means.
        """
        wide = torch.promote_types(q.dtype, torch.float32)  # counts and logarithms need more than half precision
        mask, weight = mask.to(wide), weight.to(wide)
        side = math.ceil(math.sqrt(q.shape[2] * q.shape[3] / MAX_KEYS))
        count, total = _sums(mask, side), _sums(weight, side)  # (B, 1, h, w)
        least = torch.finfo(wide).tiny
        keys = _sums(k * mask, side) / count.clamp(min=least)
        means = _sums(values * mask, side) / total.clamp(min=least)
        lowest = torch.finfo(wide).min
        bias = total.clamp(min=least).log().masked_fill(count == 0, lowest).flatten(2)[:, :, None]  # (B, 1, 1, M)
        found = attend(self._split(q), self._split(keys), self._split(means), bias)  # (B, heads, N, C / heads)
        return found.transpose(2, 3).reshape(values.shape).to(values.dtype)

    def _split(self, x: Tensor) -> Tensor:
        """Float (B, C, H, W) to (B, heads, H W, C / heads)."""
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2] * x.shape[3]).transpose(2, 3)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, chunk: int = CHUNK) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in float32 at least, `chunk` queries at a time.

    Parameters
    ----------
    q, k, v
        float (B, heads, N, d), (B, heads, M, d), (B, heads, M, D).
    bias
        float (B, 1, 1, M).

    Returns
    -------
    float (B, heads, N, D).
    """
    wide = torch.promote_types(q.dtype, torch.float32)  # half precision overflows in q k^T
    q, k, v, bias = (tensor.to(wide) for tensor in (q, k, v, bias))
    with torch.autocast(q.device.type, enabled=False):
        if q.shape[2] <= chunk:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        parts = [
            checkpoint(functional.scaled_dot_product_attention, part, k, v, bias, use_reentrant=False)
            if torch.is_grad_enabled()
            else functional.scaled_dot_product_attention(part, k, v, attn_mask=bias)
            for part in torch.split(q, chunk, dim=2)
        ]
        return torch.cat(parts, dim=2)


def _gate(channels: int) -> nn.Sequential:
    """w^T ReLU(Norm(W_h x)), float (B, C, H, W) to (B, 1, H, W)."""
    hidden = max(1, channels // 4)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
    )


def _sums(x: Tensor, side: int) -> Tensor:
    """Sum over squares of the grid; those at the right and bottom may be smaller."""
    return x if side == 1 else functional.avg_pool2d(x, side, ceil_mode=True, divisor_override=1)
