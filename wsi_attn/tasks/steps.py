"""Training batches, prepared ahead of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from wsi_attn.data.manifest import Row
from wsi_attn.models.base import BagBatch
from wsi_attn.tasks.classification.care import LesionCells
from wsi_attn.tasks.clock import EpochClock


class Step:
    """One training batch. A plain class, because Fabric traverses dataclasses.

    Attributes
    ----------
    batch
        The bags.
    labels
        int64 (B,).
    rows
        Where they come from.
    lesions
        Targets of the attention loss; None without one.
    patches
        Number of patches that the network has read.
    """

    def __init__(
        self, batch: BagBatch, labels: torch.Tensor, rows: tuple[Row, ...], lesions: LesionCells | None = None
    ) -> None:
        self.batch = batch
        self.labels = labels
        self.rows = rows
        self.lesions = lesions
        self.patches = 0


def prepared_ahead(prepare: Callable[[int], Step], steps: int, workers: int, clock: EpochClock) -> Iterator[Step]:
    """Yield the batches 0 to `steps` - 1 in order, prepared ahead of the network by a few threads."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(prepare, step) for step in range(min(2 * workers, steps))]
        for step in range(steps):
            following = step + len(waiting)
            ready = waiting.pop(0)
            if following < steps:
                waiting.append(pool.submit(prepare, following))
            with clock.waiting():
                item = ready.result()
            yield item
