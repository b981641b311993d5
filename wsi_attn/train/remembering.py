"""Frozen first stages whose maps are computed once for each augmented copy of an image."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from torch import nn

from wsi_attn.models.base import Network, SlideModel
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.memory import StageMemory
from wsi_attn.tasks.config import TrainConfig


class Remembering:
    """The memories of the trained backbones of a network and of the average of its weights.

    Parameters
    ----------
    smooth
        The average, whose frozen stages are those of the network.
    trained
        The backbones that start from trained weights.
    limit
        Bytes of maps in memory.
    folder
        For the others; removed by `close`.
    """

    def __init__(
        self,
        network: Network,
        smooth: Network,
        trained: Collection[nn.Module],
        config: TrainConfig,
        limit: int,
        folder: Path,
    ) -> None:
        self._freeze, self._folder = config.freeze, folder
        self._networks: tuple[SlideModel, ...] = ()
        self._memories: list[tuple[StageMemory, int, tuple[Backbone, Backbone]]] = []
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
        if not (config.freeze and config.augmented_copies):
            return
        if not (isinstance(network, SlideModel) and isinstance(smooth, SlideModel)):
            return
        known = set(map(id, trained))
        pairs = zip(network.view_backbones(), smooth.view_backbones(), strict=True)
        usable = [(own, copy, most) for (own, most), (copy, _) in pairs if own.remembers and id(own) in known and most]
        for number, (own, copy, most) in enumerate(usable):
            own.memory = copy.memory = StageMemory(limit // len(usable), folder / str(number))
            self._memories.append((own.memory, most, (own, copy)))
        self._networks = network, smooth
        network.memories = smooth.memories = tuple(memory for memory, _, _ in self._memories)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._memories)

    def begin_epoch(self, frozen: int | None) -> None:
        """Remember the stages that are frozen in an epoch; None for the whole backbone while the heads warm up."""
        for memory, most, _ in self._memories:
            memory.begin(min(most, self._freeze if frozen is None else frozen))

    def close(self) -> None:
        """Forget all maps."""
        for memory, _, backbones in self._memories:
            memory.forget()
            for backbone in backbones:
                backbone.memory = None
        for network in self._networks:
            network.memories = ()
        self._memories.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
