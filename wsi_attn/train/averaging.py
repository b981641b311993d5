"""The moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network whose weights follow the network's as an exponential moving average.

    After t updates the decay is min(`decay`, (1 + t) / (10 + t)), so that the random weights of the beginning are
    forgotten in a few steps and not in a hundred; as in TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """
    return AveragedModel(network, multi_avg_fn=_following(decay), use_buffers=True)


def warmed(decay: float, updates: int) -> float:
    """The decay after so many updates."""
    return min(decay, (1 + updates) / (10 + updates))


def _following(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    def follow(averages: Tensors, current: Tensors, updates: Tensor | int) -> None:
        get_ema_multi_avg_fn(warmed(decay, int(updates)))(averages, current, updates)  # type: ignore[no-untyped-call]

    return follow
