"""What the ranks of a training run exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch.distributed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


def gathered(fabric: Fabric, mine: list[T]) -> list[T]:
    """Gather the items of all ranks, in rank order."""
    if fabric.world_size == 1:
        return mine
    everyone: list[list[T]] = [[] for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(everyone, mine)
    return [item for part in everyone for item in part]
