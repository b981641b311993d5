"""Gated attention over stored features: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning",
ICML 2018.

(1)  h_n = relu(W t((x_n - m) / s) + b)           m, s: mean and deviation of the training instances; t cuts at a limit
(2)  e_n = w^T (tanh(V h_n) * sigmoid(U h_n))     equation 9 of the paper; biases as in its code
(3)  a = softmax(e),  z = sum_n a_n h_n           equations 7 and 9
(4)  o = O z + c                                  label; dropout on z while training
(5)  L = CE(o)

Baselines: "mean" has e_n = 0; "max" takes the maximum of each channel of h over the instances, and its attention is the
share of the channels that an instance wins. The evidence of an instance is O h_n, above the mean of the labels.

Differences from the paper: one embedding layer; features are standardised and cut; a softmax over C classes instead of
one sigmoid. Bags are read in blocks of `BLOCK` instances, whose intermediate values training computes again in the
backward pass, so that memory beside the features does not grow with the bag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from wsi_attn.models.configs.gated_mil import GatedMilConfig
from wsi_attn.models.feature_model import FeatureModel, FeatureOutput
from wsi_attn.nn.attention import AttendedMean, GatedAttention

BLOCK = 8192
"""Instances that are embedded at once."""

State: TypeAlias = tuple[Tensor, ...]


class Pooling(Protocol):
    """Pools the embedded instances of B bags block by block; a block has instances of one bag or of several."""

    def begin(self, like: Tensor) -> State:
        """Return the state before any instance, for z (B, P) of this type."""
        ...

    def add(self, state: State, h: Tensor, owner: Tensor) -> tuple[State, Tensor]:
        """Add a block of instances; return the state and what `finish` needs of them, (n,).

        Parameters
        ----------
        h
            float (n, P).
        owner
            int64 (n,), the bag of each instance, ascending.
        """
        ...

    def finish(self, state: State, noted: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return z (B, P) and the attention, B times (N,), from the state and what was noted of each bag."""
        ...


class WeightedMean(nn.Module):
    """Equations (2) and (3); without hidden units all weights are equal."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate = GatedAttention(channels, hidden) if hidden else None

    def begin(self, like: Tensor) -> State:
        """See `Pooling.begin`; each bag is a map of `AttendedMean`."""
        return tuple(AttendedMean.empty(like[None, :, 0], like.shape[1]))

    def add(self, state: State, h: Tensor, owner: Tensor) -> tuple[State, Tensor]:
        """See `Pooling.add`; notes e."""
        e = h.new_zeros(len(h)) if self.gate is None else self.gate(h)[:, 0].to(h.dtype)
        bags = torch.arange(state[0].shape[1], device=h.device)
        valid = (owner == bags[:, None])[None]  # (1, B, n)
        return tuple(AttendedMean(*state).merged(e.expand(valid.shape), h[None], valid)), e

    def finish(self, state: State, noted: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Pooling.finish`."""
        return AttendedMean(*state).mean[0], tuple(e.detach().softmax(dim=0) for e in noted)


class Maximum(nn.Module):
    """The maximum of each channel; of equal instances the first wins."""

    def begin(self, like: Tensor) -> State:
        """See `Pooling.begin`: the maxima, who wins, and the instances so far, (B, 1)."""
        none = torch.zeros(like.shape, dtype=torch.int64, device=like.device)
        return torch.full_like(like, -torch.inf), none, none[:, :1]

    def add(self, state: State, h: Tensor, owner: Tensor) -> tuple[State, Tensor]:
        """See `Pooling.add`."""
        largest, winner, seen = (list(part) for part in state)
        for bag in range(int(owner[0]), int(owner[-1]) + 1):
            part = h[owner == bag]
            here, place = part.max(dim=0)
            winner[bag] = torch.where(here > largest[bag], place + seen[bag], winner[bag])
            largest[bag] = torch.maximum(largest[bag], here)
            seen[bag] = seen[bag] + len(part)
        return (torch.stack(largest), torch.stack(winner), torch.stack(seen)), h.new_zeros(len(owner))

    def finish(self, state: State, noted: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Pooling.finish`."""
        largest, winner, _ = state
        share = torch.full_like(largest[0], 1 / largest.shape[1])
        return largest, tuple(none.index_add(0, won, share) for none, won in zip(noted, winner, strict=True))


class GatedMil(FeatureModel):
    """The network of equations (1) to (4)."""

    config_class = GatedMilConfig

    def __init__(self, config: GatedMilConfig) -> None:
        super().__init__()
        self.config: GatedMilConfig = config
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("deviation", torch.ones(config.features))
        self.embed = nn.Linear(config.features, config.embedding)
        hidden = config.hidden if config.pooling == "gated" else 0
        self.pooling: Maximum | WeightedMean = (
            Maximum() if config.pooling == "max" else WeightedMean(config.embedding, hidden)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.embedding, config.classes)

    @torch.no_grad()
    def prepare(self, mean: Tensor, deviation: Tensor) -> None:
        """Take m and s of equation (1); see `FeatureModel.prepare`."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, bags: Sequence[Tensor]) -> FeatureOutput:
        """See `FeatureModel.forward`."""
        sizes = [len(bag) for bag in bags]
        state = self.pooling.begin(self.mean.new_zeros((len(bags), self.config.embedding)))
        again = sum(sizes) > BLOCK and torch.is_grad_enabled()
        noted: list[Tensor] = []
        shown: list[Tensor] = []
        for block, owner in blocks_of(bags):
            if again:
                state, note, evidence = checkpoint(self._block, state, block, owner, use_reentrant=False)
            else:
                state, note, evidence = self._block(state, block, owner)
            noted.append(note)
            shown.append(evidence)
        pooled, attention = self.pooling.finish(state, torch.split_with_sizes(torch.cat(noted), sizes))
        seen = () if self.training else torch.split_with_sizes(torch.cat(shown), sizes)
        return FeatureOutput(self.decide(pooled), attention, pooled, tuple(seen))

    def decide(self, pooled: Tensor) -> Tensor:
        """Equation (4); see `Network.decide`."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def losses(self, output: FeatureOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """Equation (5); see `FeatureModel.losses`."""
        return {"fused": functional.cross_entropy(output.logits, labels, class_weights)}

    def _block(self, state: State, block: Tensor, owner: Tensor) -> tuple[State, Tensor, Tensor]:
        """Embed a block (n, D) of instances of the bags `owner` (n,) and add it to the state."""
        limit = self.config.feature_limit
        x = ((block.to(self.mean.device, self.mean.dtype) - self.mean) / self.deviation).clamp(-limit, limit)
        if self.training and self.config.feature_noise:
            x = x + self.config.feature_noise * torch.randn_like(x)
        h = functional.relu(self.embed(x)).to(self.mean.dtype)  # equation (1)
        state, noted = self.pooling.add(state, h, owner.to(h.device))
        if self.training:
            return state, noted, h.new_zeros((len(h), 0))
        return state, noted, h @ (self.head.weight - self.head.weight.mean(dim=0)).T


def blocks_of(bags: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the instances of all bags in order in blocks of at most `BLOCK`: (n, D), and int64 (n,), their bags.

    A block of a single bag is a view, so that a large bag is not copied.
    """
    parts: list[Tensor] = []
    owners: list[Tensor] = []
    room = BLOCK
    for number, bag in enumerate(bags):
        first = 0
        while first < len(bag):
            part = bag[first : first + room]
            parts.append(part)
            owners.append(torch.full((len(part),), number))
            first, room = first + len(part), room - len(part)
            if not room:
                yield _joined(parts), _joined(owners)
                parts, owners, room = [], [], BLOCK
    if parts:
        yield _joined(parts), _joined(owners)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
