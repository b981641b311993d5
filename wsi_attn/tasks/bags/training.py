"""Training on bags of stored features; labels, calibration and metrics are those of classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wsi_attn.data.features import feature_slide
from wsi_attn.data.manifest import Row
from wsi_attn.data.sources import open_row
from wsi_attn.errors import FeatureError
from wsi_attn.models.base import Network
from wsi_attn.models.calibration import Calibration
from wsi_attn.models.configs import BAGS
from wsi_attn.models.feature_model import FeatureModel
from wsi_attn.models.spec import ModelSpec
from wsi_attn.tasks.bags.dataset import BagRows, FeatureStep, moments
from wsi_attn.tasks.base import Fitting, Trained, TrainingJob
from wsi_attn.tasks.classification.training import ClassificationTraining, LabelFitting, LabelLosses
from wsi_attn.tasks.steps import Step


class BagTraining(ClassificationTraining):
    """Rows with labels whose paths are files of features.

    Raises
    ------
    ManifestError : see `check_rows`.
    FeatureError : the first bag cannot be used.
    """

    def __init__(self, manifest: Path, rows: Sequence[Row], *, held_out: bool) -> None:
        super().__init__(manifest, rows, held_out=held_out)
        first = next(row for row in rows if row.split == "train")
        with open_row(first) as slide:
            self.network = {**self.network, "features": feature_slide(slide).width}

    def fitting(self, job: TrainingJob, network: Network) -> Fitting:
        """See `Training.fitting`."""
        assert isinstance(network, FeatureModel)  # noqa: S101 - of this task
        return BagFitting(self, job, network)


class BagFitting(LabelFitting[BagRows]):
    """Bags in batches; all of them are read once before training, so that a bad file stops the run at once."""

    def __init__(self, training: BagTraining, job: TrainingJob, network: FeatureModel) -> None:
        super().__init__(training, job)

        def part_of(split: str) -> BagRows:
            return BagRows([row for row in training.rows if row.split == split], self.labels, network, job)

        self.training, self.validation = part_of("train"), part_of("val")
        self.held = part_of("test") if training.held_out else None
        try:
            mean, deviation = moments(self.training, job.progress)
            for bags in (self.validation, self.held):
                if bags is not None:
                    bags.check(job.progress)
        except FeatureError as error:
            raise FeatureError(f"{job.manifest}, {error}") from error
        network.prepare(torch.from_numpy(mean), torch.from_numpy(deviation))
        self.losses = BagLosses(self.balanced(), self.config)

    def results(self, network: Network, name: str) -> Trained | None:
        """See `Fitting.results`."""
        found = super().results(network, name)
        assert isinstance(network, FeatureModel)  # noqa: S101 - of this task
        return found and replace(found, inputs=f"Input: {network.config.features} stored features of each tile")

    def spec(self, calibration: Calibration) -> ModelSpec:
        """See `LabelFitting.spec`."""
        return ModelSpec(tuple(self.labels), None, self.config.stain, "none", calibration=calibration, task=BAGS)


class BagLosses(LabelLosses):
    """The loss terms of the network, with that of `--loss` in its place."""

    def forward(self, network: Network, step: Step) -> dict[str, Tensor]:
        """Return the loss terms of one batch; stores the number of instances read in `step`."""
        assert isinstance(step, FeatureStep)  # noqa: S101 - of this task
        assert isinstance(network, FeatureModel)  # noqa: S101
        output = network(step.batch)
        step.patches = sum(map(len, step.batch))
        labels = step.labels.to(output.logits.device)
        return self.with_chosen_loss(network.losses(output, labels, self.class_weights), output.logits, labels)
