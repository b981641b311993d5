"""Three tasks that do not exist yet, small but whole: cells as points, labels and survival from stored features.

Each is what another package would write: a `Task`, its network, and nothing else. They go through the entry points of
training, evaluation and inference in `test_protocol`.
"""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import zarr
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.data.manifest import Row, path_in
from wsi_attn.errors import ManifestError, UsageError, WsiAttnError
from wsi_attn.evaluate.intervals import Interval, group_weights, percentile_interval
from wsi_attn.evaluate.report import Report, resampling_section
from wsi_attn.models.base import Network
from wsi_attn.models.checkpoint import Checkpoint, model_record
from wsi_attn.models.spec import ModelSpec
from wsi_attn.outputs import files
from wsi_attn.outputs.policy import Found, Output, complete, other
from wsi_attn.slide import Progress, Slide, no_progress
from wsi_attn.tasks.base import (
    Answer,
    Evaluation,
    EvaluationJob,
    Fitting,
    Inference,
    Losses,
    Task,
    Trained,
    Training,
    TrainingJob,
    add_rows,
)
from wsi_attn.tasks.clock import EpochClock
from wsi_attn.tasks.config import EvaluateConfig, InferenceConfig, RunOptions
from wsi_attn.tasks.steps import Step

MATCHED_UM = 6.0
"""Largest distance between a predicted point and a cell, µm."""


@dataclass(frozen=True)
class SketchConfig:
    """Of all networks here."""

    classes: int
    features: int = 3


class RowStep(Step):
    """One row."""

    def __init__(self, row: Row, given: Tensor, wanted: Tensor) -> None:
        super().__init__((row,))
        self.given, self.wanted = given, wanted


@dataclass(frozen=True)
class SketchInferenceConfig(InferenceConfig):
    """No settings."""


class SketchAnswer(Answer):
    """A record, and the file of it."""

    def __init__(self, record: Mapping[str, Any], file: Path | None) -> None:
        self._record, self.file = record, file

    def record(self) -> Mapping[str, Any]:
        return self._record

    def line(self) -> str:
        return "\t".join(str(value) for value in self._record.values())


class Sketch(Task):
    """What the three tasks share: everything but the example of a row, the loss, the answer and the metric."""

    suffix: str

    @abstractmethod
    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]: ...

    @abstractmethod
    def example(self, row: Row, slide: Slide, labels: Sequence[str]) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor: ...

    @abstractmethod
    def answer(self, network: Network, slide: Slide, spec: ModelSpec) -> dict[str, Any]: ...

    @abstractmethod
    def score(self, answers: Sequence[tuple[Row, dict[str, Any]]], counts: np.ndarray) -> float: ...

    def write(self, record: dict[str, Any], file: Path) -> None:
        """Write what lies beside the record."""

    def training(self, manifest: Path, rows: Sequence[Row], options: RunOptions, *, held_out: bool = False) -> Training:
        if not any(row.split == "train" for row in rows):
            raise ManifestError(f"{manifest} has no rows to train on")
        return SketchTraining(self, rows)

    def evaluation(self, checkpoints: Sequence[Checkpoint], job: EvaluationJob) -> Evaluation:
        first = checkpoints[0]
        return SketchEvaluation(self, first.network, first.spec, job, model_record([first]))

    def inference(self, checkpoint: Checkpoint, config: InferenceConfig) -> Inference:
        if not isinstance(config, SketchInferenceConfig):
            raise UsageError(f"{checkpoint.name} is a model of {self.name}")
        return SketchInference(self, checkpoint)


class SketchTraining(Training):
    def __init__(self, task: Sketch, rows: Sequence[Row]) -> None:
        self.task, self.rows, self.labels = task, rows, task.labels(rows)
        self.settings = {"labels": list(self.labels)}
        self.network = {"classes": len(self.labels)}

    def fitting(self, job: TrainingJob, network: Network) -> Fitting:
        return SketchFitting(self, job)


class SketchLosses(Losses):
    """The mean over the rows of a step; of survival, over the pairs of the whole part."""

    def __init__(self, task: Sketch) -> None:
        super().__init__()
        self.task = task

    def forward(self, network: Network, step: Step) -> dict[str, Tensor]:
        assert isinstance(step, PartStep)
        return {"loss": self.task.loss([network(part.given) for part in step.parts], [p.wanted for p in step.parts])}


class PartStep(Step):
    """All rows of a split."""

    def __init__(self, parts: Sequence[RowStep]) -> None:
        super().__init__(tuple(row for part in parts for row in part.rows))
        self.parts = parts


class SketchFitting(Fitting):
    def __init__(self, training: SketchTraining, job: TrainingJob) -> None:
        self.training, self.job, self.task = training, job, training.task
        self.losses = SketchLosses(training.task)

    def steps(self) -> int:
        return 1

    def batches(self, epoch: int, clock: EpochClock) -> Iterator[Step]:
        with clock.waiting():
            step = self._part("train")
        yield step

    def validate(self, network: Network) -> dict[str, float]:
        network.eval()
        with torch.inference_mode():
            return {"val_loss": self.losses(network, self._part("val"))["loss"].item()}

    def results(self, network: Network, name: str) -> Trained | None:
        spec = ModelSpec(self.training.labels, self.job.config.mpp, "any", "none", task=self.task.name)
        job = EvaluationJob(self.job.manifest, EvaluateConfig("val"), self.job.options.command)
        evaluation = SketchEvaluation(self.task, network.eval(), spec, job, {"name": name, "sha256": ""})
        failures = add_rows(evaluation, self._rows("val"), lambda row: nullcontext(self.job.cache.get(row)))
        return Trained(spec, evaluation.report(failures), f"sketches {self.task.name}", (self.task.measure,))

    def _rows(self, split: str) -> list[Row]:
        return [row for row in self.training.rows if row.split == split]

    def _part(self, split: str) -> PartStep:
        labels = self.training.labels
        rows = self._rows(split)
        return PartStep([RowStep(row, *self.task.example(row, self.job.cache.get(row), labels)) for row in rows])


class SketchEvaluation(Evaluation):
    done = "answered"

    def __init__(
        self, task: Sketch, network: Network, spec: ModelSpec, job: EvaluationJob, model: Mapping[str, str]
    ) -> None:
        self.task, self.network, self.spec, self.job, self.model = task, network, spec, job, model
        self.answers: list[tuple[Row, dict[str, Any]]] = []

    def add(self, row: Row, slide: Slide, progress: Progress) -> None:
        self.answers.append((row, self.task.answer(self.network, slide, self.spec)))

    def report(self, failures: Sequence[WsiAttnError]) -> Report:
        groups = [row.patient for row, _ in self.answers]
        resampled = [self.task.score(self.answers, counts) for counts in group_weights(groups, 0, resamples=20)]
        value = self.task.score(self.answers, np.ones(len(groups)))
        metric: dict[str, Interval] = {
            self.task.measure: percentile_interval(value, np.array(resampled), len(set(groups)))
        }
        sections = {"intervals": resampling_section(), "software": {}, "unanswered": [str(e) for e in failures]}
        return Report(len(groups), len(set(groups)), self.spec.labels, self.job.origin(self.model), metric, sections)

    def table(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", *self.answers[0][1]])
        writer.writerows([path_in(self.job.manifest, row), *answer.values()] for row, answer in self.answers)
        return text.getvalue()


class SketchInference(Inference):
    done, again, product = "answered", "answer", "answer"

    def __init__(self, task: Sketch, checkpoint: Checkpoint) -> None:
        self.task, self.checkpoint = task, checkpoint

    def output(self, slide: Slide, folder: Path) -> Output[Answer]:
        file = self._file(slide, folder)

        def inspect() -> Found[Answer]:
            found = files_json(file)
            same = found.get("model") == self.checkpoint.sha256
            return complete(SketchAnswer(found, file)) if same else other("is of another model")

        return Output(file, inspect)

    def answer(
        self, slide: Slide, folder: Path | None, *, overwrite: bool = False, progress: Progress = no_progress
    ) -> Answer:
        found = self.task.answer(self.checkpoint.network, slide, self.checkpoint.spec)
        file = None if folder is None else self._file(slide, folder)
        record = {"slide": str(slide.info.path), **found, "model": self.checkpoint.sha256}
        if file is not None:
            self.task.write(found, file)
            files.write_json(file, record)  # last: it says that the answer is complete
        return SketchAnswer(record, file)

    def _file(self, slide: Slide, folder: Path) -> Path:
        return folder / f"{slide.info.name}.{self.task.suffix}.json"


def files_json(file: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(file.read_text())
    return found


# -- detection of cells as points -----------------------------------------------------------------------------------


class PointNet(Network):
    """A centre map of each class, (1, C, H, W)."""

    task = "detection-sketch"
    config_class = SketchConfig

    def __init__(self, config: SketchConfig) -> None:
        super().__init__()
        self.config = config
        self.maps = nn.Conv2d(3, config.classes, 3, padding=1, padding_mode="replicate")

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.maps(pixels)
        return found


class Detection(Sketch):
    """Cells as points with classes: rows name a CSV with x, y and class in a column `points`."""

    name, measure, suffix, need_label = "detection-sketch", "f1", "cells", False
    block, margin = 32, 4

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return tuple(sorted({label for row in rows for _, _, label in points_of(row)}))

    def example(self, row: Row, slide: Slide, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        pixels = slide.read_region((0, 0), 0, slide.info.size0)
        rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        maps = np.zeros((len(labels), *pixels.shape[:2]), np.float32)
        for x, y, label in points_of(row):
            here = maps[labels.index(label)]
            np.maximum(here, np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2), out=here)
        return planes(pixels), torch.from_numpy(maps)[None]

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        weight = torch.tensor(30.0)
        terms = [
            functional.binary_cross_entropy_with_logits(*pair, pos_weight=weight)
            for pair in zip(found, wanted, strict=True)
        ]
        return torch.stack(terms).mean()

    @torch.inference_mode()
    def answer(self, network: Network, slide: Slide, spec: ModelSpec) -> dict[str, Any]:
        """Peaks of the centre maps, block by block, so that memory does not grow with the slide."""
        width, height = slide.info.size0
        cells = []
        for top in range(0, height, self.block):
            for left in range(0, width, self.block):
                x0, y0 = max(0, left - self.margin), max(0, top - self.margin)
                size = (
                    min(width, left + self.block + self.margin) - x0,
                    min(height, top + self.block + self.margin) - y0,
                )
                maps = network(planes(slide.read_region((x0, y0), 0, size))).sigmoid()[0]
                peaks = (functional.max_pool2d(maps[None], 5, 1, 2)[0] == maps) & (maps > 0.5)
                for c, y, x in peaks.nonzero().tolist():
                    if left <= x0 + x < left + self.block and top <= y0 + y < top + self.block:
                        cells.append({"x": x0 + x, "y": y0 + y, "class": spec.labels[c]})
        return {"cells": cells}

    def score(self, answers: Sequence[tuple[Row, dict[str, Any]]], counts: np.ndarray) -> float:
        hits = total = 0.0
        for (row, answer), count in zip(answers, counts, strict=True):
            assert row.mpp is not None
            for label in {cell[2] for cell in points_of(row)}:
                true = np.array([(x, y) for x, y, name in points_of(row) if name == label], float)
                found = np.array([(c["x"], c["y"]) for c in answer["cells"] if c["class"] == label], float)
                away = np.linalg.norm((true[:, None] - found.reshape(-1, 2)) * tuple(row.mpp), axis=2)
                matched = away[linear_sum_assignment(np.minimum(away, 1e3))] <= MATCHED_UM
                hits += count * matched.sum()
                total += count * (len(true) + len(found)) / 2
        return float(hits / total) if total else float("nan")

    def write(self, record: dict[str, Any], file: Path) -> None:
        points = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [cell["x"], cell["y"]]},
                "properties": {"classification": {"name": cell["class"]}},
            }
            for cell in record["cells"]
        ]
        files.write_json(file.with_suffix(".geojson"), {"type": "FeatureCollection", "features": points})
        table = pa.table({key: [cell[key] for cell in record["cells"]] for key in ("x", "y", "class")})
        pyarrow.parquet.write_table(table, file.with_suffix(".parquet"))


def points_of(row: Row) -> list[tuple[float, float, str]]:
    with (row.path.parent / row.cells["points"]).open(newline="") as file:
        return [(float(cell["x"]), float(cell["y"]), cell["class"]) for cell in csv.DictReader(file)]


def planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


# -- stored features ------------------------------------------------------------------------------------------------


class BagNet(Network):
    """Logits (1, C) from the features of the tiles (N, D), with attention over them."""

    task = "bag-sketch"
    config_class = SketchConfig

    def __init__(self, config: SketchConfig) -> None:
        super().__init__()
        self.config = config
        self.attention, self.head = nn.Linear(config.features, 1), nn.Linear(config.features, config.classes)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.attention(features).softmax(dim=0)
        found: Tensor = self.head((weights * features).sum(dim=0, keepdim=True))
        return found


class RiskNet(BagNet):
    task = "survival-sketch"


def features_of(slide: Slide) -> Tensor:
    """`features/ENCODER/GRID` of a store."""
    return torch.from_numpy(np.asarray(zarr.open_array(slide.info.path / "features" / "tiny" / "default", mode="r")[:]))


class Bags(Sketch):
    """A label for the features of each store."""

    name, measure, suffix = "bag-sketch", "accuracy", "label"

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return tuple(sorted({row.label for row in rows}))

    def example(self, row: Row, slide: Slide, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        return features_of(slide), torch.tensor([labels.index(row.label)])

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        return functional.cross_entropy(torch.cat(found), torch.cat(wanted))

    @torch.inference_mode()
    def answer(self, network: Network, slide: Slide, spec: ModelSpec) -> dict[str, Any]:
        shares = network(features_of(slide)).softmax(dim=1)[0]
        return {"label": spec.labels[int(shares.argmax())], "probability": float(shares.max())}

    def score(self, answers: Sequence[tuple[Row, dict[str, Any]]], counts: np.ndarray) -> float:
        right = np.array([row.label == answer["label"] for row, answer in answers])
        return float(counts @ right / counts.sum())


class Survival(Sketch):
    """A risk for the features of each store: rows have the columns `time` and `event`."""

    name, measure, suffix, need_label = "survival-sketch", "concordance", "risk", False

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return ("risk",)

    def example(self, row: Row, slide: Slide, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        return features_of(slide), torch.tensor([[float(row.cells["time"]), float(row.cells["event"])]])

    def loss(self, found: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Negative partial log-likelihood of Cox."""
        risk, (time, event) = torch.cat(found)[:, 0], torch.cat(wanted).T
        still_there = time[None] >= time[:, None]
        terms = risk - torch.where(still_there, risk[None], -torch.inf).logsumexp(dim=1)
        return -(event * terms).sum() / event.sum().clamp(min=1)

    @torch.inference_mode()
    def answer(self, network: Network, slide: Slide, spec: ModelSpec) -> dict[str, Any]:
        return {"risk": float(network(features_of(slide))[0, 0])}

    def score(self, answers: Sequence[tuple[Row, dict[str, Any]]], counts: np.ndarray) -> float:
        """Share of the comparable pairs in which the higher risk has the earlier event."""
        time, event = (np.array([float(row.cells[name]) for row, _ in answers]) for name in ("time", "event"))
        risk = np.array([answer["risk"] for _, answer in answers])
        pairs = np.outer(counts, counts) * (event[:, None] * (time[:, None] < time))
        right = pairs * ((risk[:, None] > risk) + 0.5 * (risk[:, None] == risk))
        return float(right.sum() / pairs.sum()) if pairs.sum() else float("nan")


SKETCHES = {PointNet: Detection(), BagNet: Bags(), RiskNet: Survival()}
