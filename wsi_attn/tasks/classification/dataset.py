"""The images of a training run: opened on demand, cached, augmented with their own seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.annotations.regions import region_mask
from wsi_attn.data.augment import SYMMETRIES, Symmetry
from wsi_attn.data.bags import Bag, collate, make_bag
from wsi_attn.data.manifest import Row
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import UsageError
from wsi_attn.models.base import BagBatch, SlideModel, TrainingImages
from wsi_attn.slide import Progress, no_progress
from wsi_attn.slides.image_reader import ArraySlide
from wsi_attn.tasks.classification.care import LesionCells
from wsi_attn.tasks.classification.lesions import lesion_cells, moved_region, resized_region
from wsi_attn.tasks.classification.resampling import resampled
from wsi_attn.tasks.clock import EpochClock, TimedPatches
from wsi_attn.tasks.config import Resources, TrainConfig
from wsi_attn.tasks.steps import BagStep, dealt, prepared_ahead

LARGEST_CHANGE = 0.7
"""Bound of the log of a random change of scale."""

AS_IT_IS = -1
"""Copy of an image that is not augmented, in its name."""

WINDOW = 16
"""Batches among which images are sorted by size."""


class GuidedStep(BagStep):
    """Bags with labels, and targets of the attention loss; None without one."""

    def __init__(
        self, batch: BagBatch, labels: torch.Tensor, rows: tuple[Row, ...], lesions: LesionCells | None = None
    ) -> None:
        super().__init__(batch, labels, rows)
        self.lesions = lesions


class Dataset:
    """Rows of one split as batches.

    Parameters
    ----------
    rows, labels
        Images, and the class names in the order of the logits.
    network
        Defines the resolution of the view and of its cells.
    rank, ranks
        This process and how many there are: each gets every `ranks`-th batch.

    Attributes
    ----------
    lesions
        Rows with boxes or masks that guide attention, by row number.
    copies
        Number of augmented copies of an image that the epochs show in turn; 0 for another one in each epoch.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        labels: Sequence[str],
        network: SlideModel,
        config: TrainConfig,
        cache: SlideCache,
        resources: Resources | None = None,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows = list(rows)
        self.label_index = {name: index for index, name in enumerate(labels)}
        self.coarse_factor, self.stride = network.config.coarse_factor, network.stride
        self.turn, self.whole_batches = network.any_orientation and not config.no_flip, network.whole_batches
        self.config = config
        self.cache = cache
        self.workers = (resources or Resources()).threads()
        self.rank, self.ranks = rank, ranks
        self.lesions: Mapping[int, Row] = {}
        self.copies = 0
        self._areas: NDArray[np.int64] | None = None
        self._readers = ThreadPoolExecutor(self.workers) if self.workers > 1 else None

    def steps(self) -> int:
        """Batches of one training epoch on each rank."""
        return len(self._groups(np.random.default_rng(0)))

    def bag(self, row: Row, generator: np.random.Generator | None) -> Bag:
        """One image; augmented where a generator is given."""
        config = self.config
        slide = self.cache.get(row)
        readers = None if isinstance(slide, ArraySlide) else self._readers  # cropping an array is cheap
        patches = SlidePatches(slide, config.mpp, self.coarse_factor, workers=1, pool=readers)
        if generator is None:
            return self._plain(row, patches)
        if config.scale == 0:
            bag = self._plain(row, patches)
        else:
            change = float(np.exp(np.clip(generator.normal(0, config.scale), -LARGEST_CHANGE, LARGEST_CHANGE)))
            bag = make_bag(patches.rescaled(change), config.tissue, row.regions, config.prior)
        if row.number in self.lesions:
            bag = self._marked(row, bag, patches)
        if config.random_crop > 0:
            bag = bag.random_crop(generator, config.random_crop, self.coarse_factor)
        return bag.augmented(generator, config.colour, turn=self.turn)

    def _marked(self, row: Row, bag: Bag, patches: SlidePatches) -> Bag:
        """Return the bag with its lesion; boxes are read from their file once and cached."""
        key = ("lesion", row.number)
        kept = self.cache.pixels.get(key)
        region = None if kept is None else kept.view(np.bool_)
        if region is None:
            width, height = patches.extent
            shape = (-(-height // self.coarse_factor), -(-width // self.coarse_factor))
            marked = self.lesions[row.number]  # a row of another image where lesions are shuffled
            info = self.cache.get(marked).info
            region = region_mask(marked, info.size0, shape, info.origin)
            if region is None:
                return bag
            if self.config.care_boxes == "random":
                region = moved_region(region, np.random.default_rng([self.config.seed, row.number]))
            self.cache.pixels.put(key, region.view(np.uint8))
        return replace(bag, lesion=resized_region(region, bag.view.shape[:2]))

    def _plain(self, row: Row, patches: SlidePatches) -> Bag:
        """Return the unaugmented image; its coarse view, tissue and weights are cached."""
        keys = [(part, row.number) for part in ("view", "tissue", "weights")]
        view, tissue, weights = (self.cache.pixels.get(key) for key in keys)
        if view is not None and tissue is not None and (weights is not None or self.config.prior != "scores"):
            plain = tissue.view(np.bool_)
            return Bag(view, plain, patches.extent, patches, weights=self._weights(plain, weights))
        bag = make_bag(patches, self.config.tissue, row.regions, self.config.prior)
        self.cache.pixels.put(keys[0], bag.view)
        self.cache.pixels.put(keys[1], bag.tissue.view(np.uint8))
        if self.config.prior == "scores" and bag.weights is not None:
            scored = bag.weights.astype(np.uint8) * (255 if bag.weights.dtype == np.bool_ else 1)
            self.cache.pixels.put(keys[2], scored)
            return replace(bag, weights=scored)
        return bag

    def _weights(self, tissue: NDArray[np.bool_], scored: NDArray[np.uint8] | None) -> NDArray[Any] | None:
        return {"none": None, "tissue": tissue, "scores": scored}[self.config.prior]

    def plain_bags(self) -> Iterator[Bag]:
        """Yield every image without augmentation, in manifest order."""
        return (self.bag(row, None) for row in self.rows)

    def as_they_are(self, class_weights: torch.Tensor, progress: Progress = no_progress) -> TrainingImages:
        """Return the images for systems that inspect the training set before training.

        Parameters
        ----------
        class_weights
            float (C,), weight of each class in the losses.
        progress
            Reports the images of `TrainingImages.batches`.
        """
        labels = torch.tensor([self.label_index[row.label] for row in self.rows])
        size = self.config.batch_size

        def batches() -> Iterator[BagBatch]:
            groups = [np.arange(first, min(first + size, len(labels))) for first in range(0, len(labels), size)]
            for done, step in enumerate(self._prepared(groups, 0, training=False, clock=EpochClock())):
                progress(done * size, len(labels), "inspecting the training images")
                yield step.batch

        return TrainingImages(
            labels,
            lambda index: self.bag(self.rows[index], None).view,
            size,
            self.config.seed,
            [row.patient for row in self.rows],
            class_weights[labels],
            batches,
        )

    def _groups(self, generator: np.random.Generator | None) -> list[NDArray[np.int64]]:
        """Row indices of each batch of this rank; in manifest order without a generator, otherwise at random among
        images of similar size, each as often as `resampled` says.

        A batch is padded to its largest image, so mixing sizes would waste computation.
        """
        size = self.config.batch_size
        order = np.arange(len(self.rows))
        if generator is None:
            return [order[start : start + size] for start in range(0, len(order), size)][self.rank :: self.ranks]
        if self._areas is None:
            self._areas = np.array([math.prod(self.cache.get(row).info.size0) for row in self.rows])
        classes = np.array([self.label_index[row.label] for row in self.rows])
        order = generator.permutation(resampled(classes, self.config.resample, generator))
        groups = []
        for start in range(0, len(order), size * WINDOW):
            window = order[start : start + size * WINDOW]
            window = window[np.argsort(self._areas[window % len(self.rows)], kind="stable")]
            groups += [window[first : first + size] for first in range(0, len(window), size)]
        if self.whole_batches:
            groups = [group for group in groups if len(group) == size]
            if not groups:
                raise UsageError(
                    f"--batch-size {size}: the {len(order)} training images do not fill one batch; lower it"
                )
        groups = [
            group for group in groups if len(group) > 1
        ] or groups  # batch statistics of one image are meaningless
        groups = [groups[index] for index in generator.permutation(len(groups))]
        return dealt(groups, self.rank, self.ranks)

    def batches(
        self, epoch: int, *, training: bool, clock: EpochClock | None = None, symmetry: Symmetry = SYMMETRIES[0]
    ) -> Iterator[GuidedStep]:
        """Batches of one epoch, prepared ahead by a few threads; shuffled and augmented while training, otherwise in
        one orientation.
        """
        seed = self.config.seed
        groups = self._groups(np.random.default_rng([seed, epoch]) if training else None)
        return self._prepared(groups, epoch, training=training, clock=clock or EpochClock(), symmetry=symmetry)

    def _prepared(
        self,
        groups: Sequence[NDArray[np.int64]],
        epoch: int,
        *,
        training: bool,
        clock: EpochClock,
        symmetry: Symmetry = SYMMETRIES[0],
    ) -> Iterator[GuidedStep]:
        """Batches of the rows that are given by their numbers, see `_groups`."""
        seed = self.config.seed
        shown = epoch % self.copies if self.copies else epoch

        def prepare(step: int) -> GuidedStep:
            rows = [self.rows[index % len(self.rows)] for index in groups[step]]
            showings = [int(index) // len(self.rows) for index in groups[step]]  # each is augmented differently
            bags = [
                self.bag(row, np.random.default_rng([seed, shown, row.number, showing]) if training else None)
                for row, showing in zip(rows, showings, strict=True)
            ]
            if symmetry != SYMMETRIES[0]:
                bags = [bag.turned(symmetry) for bag in bags]
            bags = [replace(bag, source=TimedPatches(bag.source, clock)) for bag in bags]
            place = step * self.ranks + self.rank
            draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch * 1009 + place) if training else None
            labels = torch.tensor([self.label_index[row.label] for row in rows])
            batch = collate(bags, self.stride, draw)
            if not training:
                turn = SYMMETRIES.index(symmetry)
                batch = replace(batch, images=tuple((row.number, AS_IT_IS, turn) for row in rows))
            elif self.copies:
                names = zip(rows, showings, strict=True)
                batch = replace(batch, images=tuple((row.number, shown, showing) for row, showing in names))
            lesions = None
            if training and self.lesions and epoch >= self.config.first_care_epoch():
                regions, shapes = [bag.lesion for bag in bags], [bag.view.shape[:2] for bag in bags]
                lesions = lesion_cells(regions, shapes, batch.valid, self.stride, self.config.care_distance)
            return GuidedStep(batch, labels, tuple(rows), lesions)

        return prepared_ahead(prepare, len(groups), self.workers, clock)
