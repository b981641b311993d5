"""Three tasks that do not exist yet, small but whole: cells as points, labels and survival from stored features.

Each is what another package would write: a `RowTask`, its network, and nothing else. They go through the entry points
of training, evaluation and inference in `test_protocol`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import zarr
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.data.manifest import Row
from wsi_attn.json_types import JsonObject
from wsi_attn.models.base import Network
from wsi_attn.outputs import files
from wsi_attn.slide import Slide
from wsi_attn.tasks.row_task import Answered, Apply, RowTask, number_in

MATCHED_UM = 6.0
"""Largest distance between a predicted point and a cell, µm."""


@dataclass(frozen=True)
class SketchConfig:
    """Of all networks here."""

    classes: int
    features: int = 3


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


class Detection(RowTask):
    """Cells as points with classes: rows name a CSV with x, y and class in a column `points`."""

    name, measure, about = "detection-sketch", "f1", "finds cells"
    block, margin = 32, 4

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return tuple(sorted({label for row in rows for _, _, label in points_of(row)}))

    def given(self, slide: Slide) -> Tensor:
        return planes(slide.read_region((0, 0), 0, slide.info.size0))

    def target(self, row: Row, labels: Sequence[str]) -> Tensor:
        return torch.tensor([(x, y, labels.index(label)) for x, y, label in points_of(row)])

    def loss(self, found: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Against centre maps, a bell at each cell."""
        weight = torch.tensor(30.0)
        terms = []
        for maps, cells in zip(found, targets, strict=True):
            wanted = torch.zeros_like(maps[0])
            rows, columns = torch.meshgrid(*map(torch.arange, wanted.shape[1:]), indexing="ij")
            for x, y, label in cells.tolist():
                bell = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2)
                wanted[int(label)] = torch.maximum(wanted[int(label)], bell)
            terms.append(functional.binary_cross_entropy_with_logits(maps[0], wanted, pos_weight=weight))
        return torch.stack(terms).mean()

    def answer(self, network: Apply, slide: Slide, labels: Sequence[str]) -> JsonObject:
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
                        cells.append({"x": x0 + x, "y": y0 + y, "class": labels[c]})
        return {"cells": cells}

    def score(self, answers: Sequence[Answered], weights: np.ndarray) -> float:
        hits = total = 0.0
        for (row, answer), count in zip(answers, weights, strict=True):
            assert row.mpp is not None
            for label in {cell[2] for cell in points_of(row)}:
                true = np.array([(x, y) for x, y, name in points_of(row) if name == label], float)
                found = np.array([(c["x"], c["y"]) for c in answer["cells"] if c["class"] == label], float)
                away = np.linalg.norm((true[:, None] - found.reshape(-1, 2)) * tuple(row.mpp), axis=2)
                matched = away[linear_sum_assignment(np.minimum(away, 1e3))] <= MATCHED_UM
                hits += count * matched.sum()
                total += count * (len(true) + len(found)) / 2
        return float(hits / total) if total else float("nan")

    def write(self, answer: JsonObject, file: Path) -> None:
        points = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [cell["x"], cell["y"]]},
                "properties": {"classification": {"name": cell["class"]}},
            }
            for cell in answer["cells"]
        ]
        files.write_json(file.with_suffix(".geojson"), {"type": "FeatureCollection", "features": points})
        table = pa.table({key: [cell[key] for cell in answer["cells"]] for key in ("x", "y", "class")})
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


class Bags(RowTask):
    """A label for the features of each store."""

    name, measure, about, need_label = "bag-sketch", "accuracy", "labels stores", True

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return tuple(sorted({row.label for row in rows}))

    def given(self, slide: Slide) -> Tensor:
        return features_of(slide)

    def target(self, row: Row, labels: Sequence[str]) -> Tensor:
        return torch.tensor([labels.index(row.label)])

    def loss(self, found: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        return functional.cross_entropy(torch.cat(list(found)), torch.cat(list(targets)))

    def answer(self, network: Apply, slide: Slide, labels: Sequence[str]) -> JsonObject:
        shares = network(self.given(slide)).softmax(dim=1)[0]
        return {"label": labels[int(shares.argmax())], "probability": float(shares.max())}

    def score(self, answers: Sequence[Answered], weights: np.ndarray) -> float:
        right = np.array([row.label == answer["label"] for row, answer in answers])
        return float(weights @ right / weights.sum())


class Survival(RowTask):
    """A risk for the features of each store: rows have the columns `time` and `event`."""

    name, measure, about = "survival-sketch", "concordance", "estimates risks"

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:
        return ("risk",)

    def given(self, slide: Slide) -> Tensor:
        return features_of(slide)

    def target(self, row: Row, labels: Sequence[str]) -> Tensor:
        return torch.tensor([[number_in(row, "time"), number_in(row, "event")]])

    def loss(self, found: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Negative partial log-likelihood of Cox."""
        risk, (time, event) = torch.cat(list(found))[:, 0], torch.cat(list(targets)).T
        still_there = time[None] >= time[:, None]
        terms = risk - torch.where(still_there, risk[None], -torch.inf).logsumexp(dim=1)
        return -(event * terms).sum() / event.sum().clamp(min=1)

    def answer(self, network: Apply, slide: Slide, labels: Sequence[str]) -> JsonObject:
        return {"risk": float(network(self.given(slide))[0, 0])}

    def score(self, answers: Sequence[Answered], weights: np.ndarray) -> float:
        """Share of the comparable pairs in which the higher risk has the earlier event."""
        time, event = (np.array([number_in(row, name) for row, _ in answers]) for name in ("time", "event"))
        risk = np.array([answer["risk"] for _, answer in answers])
        pairs = np.outer(weights, weights) * (event[:, None] * (time[:, None] < time))
        right = pairs * ((risk[:, None] > risk) + 0.5 * (risk[:, None] == risk))
        return float(right.sum() / pairs.sum()) if pairs.sum() else float("nan")


SKETCHES = {PointNet: Detection(), BagNet: Bags(), RiskNet: Survival()}
