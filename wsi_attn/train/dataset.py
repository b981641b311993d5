"""The images of a training run: opened on demand, kept while memory allows, augmented by a seed of their own."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.contract import Slide, UInt8Array
from wsi_attn.data.bags import Bag, collate, make_bag
from wsi_attn.data.manifest import Row
from wsi_attn.data.sources import SlidePatches, open_source
from wsi_attn.models.contract import BagBatch, SlideModel
from wsi_attn.train.config import TrainConfig

CACHE_BYTES = 3 << 30
"""Decoded plain images kept in memory; slides and stores are read on demand and cost next to nothing here."""

LARGEST_CHANGE = 0.7
"""Bound of the log of a random change of scale."""

WINDOW = 16
"""Batches among which images are sorted by size."""

WORKERS = 2
"""Threads that prepare batches ahead of the network."""


class SlideCache:
    """Open slides, the least recently used closed first once their pixels exceed a bound."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._open: OrderedDict[int, tuple[Slide, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, row: Row) -> Slide:
        """The row's slide, opened if it is not."""
        with self._lock:
            if row.number in self._open:
                self._open.move_to_end(row.number)
                return self._open[row.number][0]
        slide = open_source(row.path, row.mpp)
        pixels = getattr(slide, "pixels", None)
        size = 1 << 20 if pixels is None else pixels.nbytes
        with self._lock:
            self._open[row.number] = (slide, size)
            while sum(size for _, size in self._open.values()) > self._limit and len(self._open) > 1:
                self._open.popitem(last=False)  # closed when its last reader lets go of it
        return slide


@dataclass(frozen=True)
class Step:
    """One batch: the bags, int64 labels (B,), and the rows they come from."""

    batch: BagBatch
    labels: torch.Tensor
    rows: tuple[Row, ...]


class Dataset:
    """Rows of one split as batches."""

    def __init__(
        self,
        rows: Sequence[Row],
        labels: Sequence[str],
        network: SlideModel,
        config: TrainConfig,
        cache: SlideCache,
    ) -> None:
        self.rows = list(rows)
        self.label_index = {name: index for index, name in enumerate(labels)}
        self.network = network
        self.config = config
        self.cache = cache
        self._areas: NDArray[np.int64] | None = None
        self._seen: dict[int, tuple[UInt8Array, NDArray[np.bool_]]] = {}

    def bag(self, row: Row, generator: np.random.Generator | None) -> Bag:
        """One image; augmented where a generator is given."""
        config = self.config
        patches = SlidePatches(self.cache.get(row), config.mpp, self.network.config.coarse_factor, workers=1)
        if generator is None:
            return self._plain(row, patches)
        if config.scale == 0:
            return self._plain(row, patches).augmented(generator, config.colour)
        change = float(np.exp(np.clip(generator.normal(0, config.scale), -LARGEST_CHANGE, LARGEST_CHANGE)))
        bag = make_bag(patches.rescaled(change), config.tissue, regions=row.regions)
        return bag.augmented(generator, config.colour)

    def _plain(self, row: Row, patches: SlidePatches) -> Bag:
        """The image as it is; its coarse view and tissue are small and kept, its pixels are left to the cache."""
        if row.number in self._seen:
            view, tissue = self._seen[row.number]
            return Bag(view, tissue, patches.extent, patches)
        bag = make_bag(patches, self.config.tissue, regions=row.regions)
        self._seen[row.number] = (bag.view, bag.tissue)
        return bag

    def plain_bags(self) -> Iterator[Bag]:
        """Every image as it is, in manifest order."""
        return (self.bag(row, None) for row in self.rows)

    def _groups(self, generator: np.random.Generator | None) -> list[NDArray[np.int64]]:
        """Row indices of each batch; in manifest order without a generator, else at random among images of like size.

        A batch is padded to its largest image, so one large field among small ones would cost as much as all large.
        """
        size = self.config.batch_size
        order = np.arange(len(self.rows))
        if generator is None:
            return [order[start : start + size] for start in range(0, len(order), size)]
        if self._areas is None:
            self._areas = np.array([math.prod(self.cache.get(row).info.size0) for row in self.rows])
        order = generator.permutation(order)
        groups = []
        for start in range(0, len(order), size * WINDOW):
            window = order[start : start + size * WINDOW]
            window = window[np.argsort(self._areas[window], kind="stable")]
            groups += [window[first : first + size] for first in range(0, len(window), size)]
        groups = [group for group in groups if len(group) > 1] or groups  # batch statistics of one image mean nothing
        return [groups[index] for index in generator.permutation(len(groups))]

    def batches(self, epoch: int, *, training: bool) -> Iterator[Step]:
        """Batches of one epoch, prepared ahead by a few threads; shuffled and augmented while training."""
        seed = self.config.seed
        groups = self._groups(np.random.default_rng([seed, epoch]) if training else None)

        def prepare(step: int) -> Step:
            rows = [self.rows[index] for index in groups[step]]
            bags = [
                self.bag(row, np.random.default_rng([seed, epoch, row.number]) if training else None) for row in rows
            ]
            draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch * 1009 + step) if training else None
            labels = torch.tensor([self.label_index[row.label] for row in rows])
            return Step(collate(bags, self.network.stride, draw), labels, tuple(rows))

        with ThreadPoolExecutor(WORKERS) as pool:
            waiting = [pool.submit(prepare, step) for step in range(min(2 * WORKERS, len(groups)))]
            for step in range(len(groups)):
                following = step + len(waiting)
                ready = waiting.pop(0)
                if following < len(groups):
                    waiting.append(pool.submit(prepare, following))
                yield ready.result()
