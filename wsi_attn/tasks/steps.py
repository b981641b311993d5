"""Training batches, prepared ahead of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from wsi_attn.data.manifest import Row
from wsi_attn.models.base import BagBatch
from wsi_attn.tasks.clock import EpochClock


class Step:
    """One training batch. A plain class, because Fabric traverses dataclasses.

    Attributes
    ----------
    rows
        Where its images come from.
    patches
        Number of patches that the network has read.
    """

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        self.patches = 0


class LabelledStep(Step):
    """Rows with labels.

    Attributes
    ----------
    batch
        The input of the network.
    labels
        int64 (B,), or (B, H, W) for pixels.
    """

    batch: object

    def __init__(self, labels: torch.Tensor, rows: tuple[Row, ...]) -> None:
        super().__init__(rows)
        self.labels = labels


class BagStep(LabelledStep):
    """Bags of images."""

    batch: BagBatch

    def __init__(self, batch: BagBatch, labels: torch.Tensor, rows: tuple[Row, ...]) -> None:
        super().__init__(labels, rows)
        self.batch = batch


S = TypeVar("S", bound=Step)
T = TypeVar("T")


def in_parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the items in parts of a size; the last part may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def dealt(batches: Sequence[T], rank: int, ranks: int) -> list[T]:
    """Return every `ranks`-th batch; all ranks take the same number of steps, so the first batches may come twice."""
    batches = list(batches)
    while len(batches) % ranks:
        batches.append(batches[len(batches) % ranks - 1])
    return batches[rank::ranks]


def prepared_ahead(prepare: Callable[[int], S], steps: int, workers: int, clock: EpochClock) -> Iterator[S]:
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
