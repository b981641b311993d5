"""Crops of images and masks in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.annotations.masks import UNLABELLED, Classes, Mask, open_mask
from wsi_attn.data.manifest import Row
from wsi_attn.data.segmentation import Augmentation, Crop, crops_of, fixed_crop, fixed_crops, random_crop, window_of
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import ManifestError
from wsi_attn.geometry import Region
from wsi_attn.lru import LruCache
from wsi_attn.models.base import BagBatch
from wsi_attn.models.joint_segmentation import UNLABELLED as NO_LABEL
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import Resources, TrainConfig
from wsi_attn.tasks.steps import BagStep, dealt, in_parts, prepared_ahead

LEAST_SHARE = 1e-3
"""Least share of the pixels that a class is taken to have: bounds the weight of the rarest."""

OPEN_MASKS = 128
"""Masks that are held, so that an image is not decoded for every crop."""


class PixelDataset:
    """Rows of one split as batches of crops with labels.

    Parameters
    ----------
    rows, classes
        Images with masks, and the classes of the masks.
    network
        Defines the crop size.
    rank, ranks
        This process and how many there are: each gets every `ranks`-th batch.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        classes: Classes,
        network: JointSegmentation,
        config: TrainConfig,
        cache: SlideCache,
        resources: Resources,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows, self.classes, self.config, self.cache = list(rows), classes, config, cache
        self.side = network.config.crop
        self.coarse_factor = network.config.coarse_factor
        self.workers, self.rank, self.ranks = resources.threads(), rank, ranks
        self._masks: LruCache[Mask] = LruCache(OPEN_MASKS, lambda mask: 1)
        self._fixed: dict[int, list[tuple[int, int]]] = {}
        self._extents = [self._patches(row).extent for row in self.rows]

    def steps(self) -> int:
        """Batches of one training epoch on each rank."""
        return len(self._groups(np.random.default_rng(0)))

    def batches(self, epoch: int, *, training: bool, clock: EpochClock | None = None) -> Iterator[BagStep]:
        """Batches of one epoch, prepared ahead by a few threads; shuffled and augmented while training."""
        seed, config = self.config.seed, self.config
        change = Augmentation(config.colour, config.scale, config.warp)
        groups = self._groups(np.random.default_rng([seed, epoch])) if training else self._fixed_groups()

        def crop(index: int, which: int) -> Crop:
            row = self.rows[index]
            patches, mask = self._patches(row), self._mask(row)
            if training:
                generator = np.random.default_rng([seed, epoch, row.number, which])
                return random_crop(patches, mask, self.side, generator, change)
            return fixed_crop(patches, mask, self._corners(row)[which], self.side)

        def prepare(step: int) -> BagStep:
            return _step([crop(index, which) for index, which in groups[step]], [self.rows[i] for i, _ in groups[step]])

        return prepared_ahead(prepare, len(groups), self.workers, clock or EpochClock())

    def class_shares(self) -> NDArray[np.float64]:
        """Share of each class among the labelled pixels of the fixed crops, float64 (C,), `LEAST_SHARE` at least.

        Raises
        ------
        ManifestError : a mask that cannot be used, or no pixel has a label.
        """
        counts = np.zeros(UNLABELLED + 1)
        for row in self.rows:
            patches, mask = self._patches(row), self._mask(row)
            for corner in self._corners(row):
                labels = mask.read(window_of(patches, Region(*corner, self.side, self.side)))
                counts += np.bincount(labels.ravel(), minlength=UNLABELLED + 1)
        counts = counts[: len(self.classes.names)]
        if not counts.any():
            raise ManifestError("the training masks label no pixel")
        return np.asarray(np.maximum(counts / counts.sum(), LEAST_SHARE))

    def _patches(self, row: Row) -> SlidePatches:
        return SlidePatches(self.cache.get(row), self.config.mpp, self.coarse_factor, workers=1)

    def _mask(self, row: Row) -> Mask:
        if (mask := self._masks.get(row.number)) is None:
            info = self.cache.get(row).info
            mask = open_mask(row, self.classes, info.size0, info.origin)
            self._masks.put(row.number, mask)
        return mask

    def _corners(self, row: Row) -> list[tuple[int, int]]:
        """Of the row's fixed crops."""
        if row.number not in self._fixed:
            self._fixed[row.number] = fixed_crops(self._patches(row), self._mask(row), self.side, row.number)
        return self._fixed[row.number]

    def _places(self, *, fixed: bool) -> list[tuple[int, int]]:
        """Index of a row and number of a crop, of all crops of an epoch."""
        return [
            (index, which)
            for index, extent in enumerate(self._extents)
            for which in range(len(self._corners(self.rows[index])) if fixed else crops_of(extent, self.side))
        ]

    def _groups(self, generator: np.random.Generator) -> list[Sequence[tuple[int, int]]]:
        places = self._places(fixed=False)
        shuffled = [places[index] for index in generator.permutation(len(places))]
        return dealt(in_parts(shuffled, self.config.batch_size), self.rank, self.ranks)

    def _fixed_groups(self) -> list[Sequence[tuple[int, int]]]:
        return in_parts(self._places(fixed=True), self.config.batch_size)[self.rank :: self.ranks]


def _step(crops: Sequence[Crop], rows: Sequence[Row]) -> BagStep:
    side = crops[0].labels.shape[0]
    labels = np.stack([crop.labels for crop in crops]).astype(np.int64)
    labels[labels == UNLABELLED] = NO_LABEL
    batch = BagBatch(
        coarse=torch.from_numpy(np.stack([crop.pixels for crop in crops])).permute(0, 3, 1, 2),
        valid=torch.from_numpy(np.stack([crop.valid for crop in crops])),
        extent=torch.tensor([[side, side]] * len(crops)),
        sources=(),
    )
    return BagStep(batch, torch.from_numpy(labels), tuple(rows))
