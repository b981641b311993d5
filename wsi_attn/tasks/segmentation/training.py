"""Training of segmentation on crops of images and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_attn.annotations.masks import found_classes, parse_classes
from wsi_attn.data.manifest import Row
from wsi_attn.errors import ManifestError
from wsi_attn.evaluate.segmentation import METRICS
from wsi_attn.models.base import Network
from wsi_attn.models.joint_segmentation import UNLABELLED as NO_LABEL
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.models.spec import ModelSpec
from wsi_attn.slide import ItemsAsSteps
from wsi_attn.tasks.base import EvaluationJob, Fitting, Losses, Trained, Training, TrainingJob, validation_report
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import EvaluateConfig
from wsi_attn.tasks.ranks import gathered
from wsi_attn.tasks.segmentation.dataset import PixelDataset
from wsi_attn.tasks.segmentation.evaluation import SegmentationEvaluation
from wsi_attn.tasks.steps import BagStep, Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class SegmentationTraining(Training):
    """Rows with masks.

    Raises
    ------
    ManifestError : a row without a mask.
    """

    def __init__(self, manifest: Path, rows: Sequence[Row], classes: str | None) -> None:
        for row in rows:
            if row.split != "test" and row.mask is None:
                raise ManifestError(f"{manifest}, row {row.number}: no mask; every row needs one in the column `mask`")
        self.rows = rows
        self.classes = (
            parse_classes(classes) if classes else found_classes([row for row in rows if row.split == "train"])
        )
        self.settings: Mapping[str, object] = {"classes": asdict(self.classes)}
        self.network = {"classes": len(self.classes.names)}

    def fitting(self, job: TrainingJob, network: Network) -> Fitting:
        """See `Training.fitting`."""
        assert isinstance(network, JointSegmentation)  # noqa: S101 - of this task
        return SegmentationFitting(self, job, network)


class SegmentationFitting(Fitting):
    """Crops in batches; see `Fitting`.

    Raises
    ------
    ManifestError : no row to train or validate on, or a mask that cannot be used.
    """

    def __init__(self, training: SegmentationTraining, job: TrainingJob, network: JointSegmentation) -> None:
        self.job, self.classes, self.config = job, training.classes, job.config

        def part_of(split: str) -> PixelDataset:
            chosen = [row for row in training.rows if row.split == split]
            if not chosen:
                aim = "train" if split == "train" else "validate"
                raise ManifestError(f"{job.manifest} has no rows to {aim} on")
            rank, ranks = job.fabric.global_rank, job.fabric.world_size
            return PixelDataset(
                chosen, self.classes, network, job.config, job.cache, job.options.resources, rank=rank, ranks=ranks
            )

        self.training, self.validation = part_of("train"), part_of("val")
        self._weights = pixel_weights(self.training.class_shares(), self.config.class_weights)
        self.losses = SegmentationLosses(self._weights)

    def steps(self) -> int:
        """See `Fitting.steps`."""
        return self.training.steps()

    def batches(self, epoch: int, clock: EpochClock) -> Iterator[Step]:
        """See `Fitting.batches`."""
        return self.training.batches(epoch, training=True, clock=clock)

    def validate(self, network: Network) -> dict[str, float]:
        """See `Fitting.validate`."""
        return pixel_scores(self.job.fabric, network, self.validation, self._weights)

    def results(self, network: Network, name: str) -> Trained | None:
        """See `Fitting.results`; the metrics are those of whole images, tiled as in inference."""
        if not self.job.fabric.is_global_zero:
            return None
        assert isinstance(network, JointSegmentation)  # noqa: S101 - of this task
        config, names = self.config, self.classes.names
        spec = ModelSpec(
            labels=names,
            mpp=config.mpp,
            stain=config.stain,
            tissue=config.tissue,
            task=network.task,
            mask_values=self.classes.values,
        )
        resources, command = self.job.options.resources, self.job.options.command
        wanted = EvaluateConfig("val", config.seed)
        job = EvaluationJob(self.job.manifest, wanted, command, workers=resources.threads())
        evaluation = SegmentationEvaluation(network.eval(), spec, job, {"name": name, "sha256": ""})
        progress = ItemsAsSteps(self.job.progress, "segmenting the validation set")
        report = validation_report(evaluation, self.validation.rows, self.job.cache, progress)
        return Trained(spec, report, f"gives every pixel one of: {', '.join(names)}", METRICS)


class SegmentationLosses(Losses):
    """The loss terms of the network."""

    def __init__(self, class_weights: Tensor) -> None:
        super().__init__()
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)

    def forward(self, network: Network, step: Step) -> dict[str, Tensor]:
        """Return the loss terms of one batch."""
        assert isinstance(step, BagStep)  # noqa: S101 - of this task
        assert isinstance(network, JointSegmentation)  # noqa: S101
        output = network(step.batch)
        return network.losses(output, step.labels.to(output.logits.device), self.class_weights)


def pixel_weights(shares: NDArray[np.float64], kind: str) -> torch.Tensor:
    """Weight of each class in the cross-entropy, float32 (C,), mean 1 over the pixels; `kind` as in `TrainConfig`."""
    weights = shares ** -{"none": 0.0, "root": 0.5, "balanced": 1.0}[kind]
    return torch.tensor(weights / (weights * shares).sum(), dtype=torch.float32)


@torch.inference_mode()
def pixel_scores(fabric: Fabric, network: Network, dataset: PixelDataset, class_weights: Tensor) -> dict[str, float]:
    """Loss, Dice and IoU of the fixed crops, without augmentation; each rank its share.

    Dice and IoU are those of all pixels together, means over the classes but the background that occur.
    """
    assert isinstance(network, JointSegmentation)  # noqa: S101 - of this task
    network.eval()
    mine = []
    for number, step in enumerate(dataset.batches(0, training=False)):
        with fabric.autocast():
            output = network(step.batch)
        assert output.segmentation is not None  # noqa: S101 - of a segmentation network
        device = output.segmentation.device
        terms = network.losses(output, step.labels.to(device), class_weights.to(device))
        called = output.segmentation.argmax(dim=1).cpu()
        counts = confusion(called, step.labels, len(dataset.classes.names))
        mine.append((number * dataset.ranks + dataset.rank, sum(term.item() for term in terms.values()), counts))
    found = sorted(gathered(fabric, mine), key=lambda entry: int(entry[0]))
    total = np.sum([counts for *_, counts in found], axis=0)
    hits, either = np.diag(total), total.sum(axis=0) + total.sum(axis=1)
    there = either > 0
    there[0] = False
    both, either = hits[there], either[there]
    return {
        "val_loss": float(np.mean([loss for _, loss, _ in found])),
        "val_dice": float(np.mean(2 * both / either)) if there.any() else 0.0,
        "val_iou": float(np.mean(both / (either - both))) if there.any() else 0.0,
    }


def confusion(called: torch.Tensor, labels: torch.Tensor, classes: int) -> NDArray[np.int64]:
    """Confusion matrix of labelled pixels, int64 (C, C), true classes in rows."""
    known = labels != NO_LABEL
    pairs = labels[known] * classes + called[known]
    counts = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return np.asarray(counts.numpy(), np.int64)
