"""The exponential moving average of the weights, which is validated and stored."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of the network whose weights are an exponential moving average of the network's.

    After t updates the decay is min(`decay`, (1 + t) / (10 + t)), so that the initial weights are
    forgotten within a few steps, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """
    return AveragedModel(network, multi_avg_fn=_following(decay), use_buffers=True)


def warmed(decay: float, updates: int) -> float:
    """Return the decay after a number of updates."""
    return min(decay, (1 + updates) / (10 + updates))


def _following(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    def follow(averages: Tensors, current: Tensors, updates: Tensor | int) -> None:
        get_ema_multi_avg_fn(warmed(decay, int(updates)))(averages, current, updates)  # type: ignore[no-untyped-call]

    return follow
