"""The bags of a training run: features read on demand, cached in bytes, checked before training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_attn.data.augment import SYMMETRIES, Symmetry
from wsi_attn.data.features import ROWS, FeatureArray, feature_slide
from wsi_attn.data.manifest import Row
from wsi_attn.data.sources import open_row
from wsi_attn.models.feature_model import FeatureModel
from wsi_attn.slide import Progress
from wsi_attn.tasks.base import TrainingJob
from wsi_attn.tasks.classification.resampling import resampled
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.steps import LabelledStep, dealt, in_parts, prepared_ahead


class FeatureStep(LabelledStep):
    """Bags of features with labels; `batch` has B times (N, D)."""

    batch: Sequence[torch.Tensor]

    def __init__(self, batch: Sequence[torch.Tensor], labels: torch.Tensor, rows: tuple[Row, ...]) -> None:
        super().__init__(labels, rows)
        self.batch = batch


class BagRows:
    """Rows of one split as batches; see `Examples`.

    Parameters
    ----------
    rows, labels
        Bags, and the class names in the order of the logits.
    network
        Says the number of features and how many instances are left out in training.
    """

    def __init__(self, rows: Sequence[Row], labels: Sequence[str], network: FeatureModel, job: TrainingJob) -> None:
        self.rows = list(rows)
        self.label_index = {name: index for index, name in enumerate(labels)}
        self.config = job.config
        self._width, self._left_out = network.config.features, network.config.instance_dropout
        self._cache, self._workers = job.cache.pixels, job.options.resources.threads()
        self._rank, self._ranks = job.fabric.global_rank, job.fabric.world_size
        self._kinds: dict[int, np.dtype[np.generic]] = {}

    def steps(self) -> int:
        """Batches of one training epoch on each rank."""
        return len(self._groups(np.random.default_rng(0)))

    def features(self, row: Row) -> FeatureArray:
        """Return the features of a bag, float16 or float32 (N, D), from the cache if they are there.

        Raises
        ------
        WsiAttnError : they cannot be used; the message names row and file.
        """
        key = ("features", row.number)
        kept = self._cache.get(key)
        if kept is not None and row.number in self._kinds:
            found: FeatureArray = kept.view(self._kinds[row.number]).reshape(-1, self._width)
            return found
        with open_row(row) as slide:
            values = feature_slide(slide).read(self._width)
        self._kinds[row.number] = values.dtype
        self._cache.put(key, np.ascontiguousarray(values).reshape(-1).view(np.uint8))
        return values

    def check(self, progress: Progress) -> None:
        """Read every bag once; raises as `features`."""
        for done, row in enumerate(self.rows):
            progress(done, len(self.rows), "reading features")
            self.features(row)

    def batches(
        self, epoch: int, *, training: bool, clock: EpochClock | None = None, symmetry: Symmetry = SYMMETRIES[0]
    ) -> Iterator[FeatureStep]:
        """Batches of one epoch, prepared ahead by a few threads; in manifest order except while training."""
        seed = self.config.seed
        groups = self._groups(np.random.default_rng([seed, epoch]) if training else None)

        def prepare(step: int) -> FeatureStep:
            rows = [self.rows[index % len(self.rows)] for index in groups[step]]
            showings = [int(index) // len(self.rows) for index in groups[step]]
            bags = []
            for row, showing in zip(rows, showings, strict=True):
                values = self.features(row)
                if training and self._left_out:
                    values = self._some(values, np.random.default_rng([seed, epoch, row.number, showing]))
                bags.append(torch.tensor(values))
            return FeatureStep(bags, torch.tensor([self.label_index[row.label] for row in rows]), tuple(rows))

        return prepared_ahead(prepare, len(groups), self._workers, clock or EpochClock())

    def _some(self, values: FeatureArray, generator: np.random.Generator) -> FeatureArray:
        """Return a random part of the instances, at least one."""
        chosen = generator.random(len(values)) >= self._left_out
        chosen[generator.integers(len(values))] = True
        part: FeatureArray = values[chosen]
        return part

    def _groups(self, generator: np.random.Generator | None) -> list[Sequence[int]]:
        """Numbers of the rows of each batch of this rank; see `Dataset`."""
        size = self.config.batch_size
        if generator is None:
            return in_parts(range(len(self.rows)), size)[self._rank :: self._ranks]
        classes = np.array([self.label_index[row.label] for row in self.rows])
        order = generator.permutation(resampled(classes, self.config.resample, generator))
        return dealt(in_parts(order.tolist(), size), self._rank, self._ranks)


def moments(bags: BagRows, progress: Progress) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation of each feature over all instances, float64 (D,); the deviation of a constant is 1.

    Raises
    ------
    WsiAttnError : see `BagRows.features`.
    """
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    origin: NDArray[np.float64] | None = None
    for done, row in enumerate(bags.rows):
        progress(done, len(bags.rows), "reading features")
        values = bags.features(row)
        for first in range(0, len(values), ROWS):
            block = values[first : first + ROWS].astype(np.float64)
            origin = block.mean(axis=0) if origin is None else origin  # sums of squares of small numbers are exact
            block -= origin
            count, total, squares = count + len(block), total + block.sum(axis=0), squares + (block**2).sum(axis=0)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    shift = mean + (0 if origin is None else origin)
    return shift, np.where(deviation > 1e-6, deviation, 1.0)
