"""Tasks that other packages could add go through training, evaluation and inference without a change to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import zarr
from PIL import Image

from tests.unit.tasks.sketches import SKETCHES, PointNet
from wsi_attn.data.inputs import Input
from wsi_attn.data.manifest import read_manifest
from wsi_attn.errors import UsageError
from wsi_attn.inference.batch import Batch, run_inputs
from wsi_attn.inference.evaluation import evaluate_into
from wsi_attn.models.base import Network
from wsi_attn.models.checkpoint import load_checkpoint
from wsi_attn.models.systems import SYSTEMS
from wsi_attn.slides.open import open_slide
from wsi_attn.tasks.base import TASKS, EvaluationJob, Task, inference_of
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.config import EvaluateConfig, RunOptions, TrainConfig
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.write import tile_slide
from wsi_attn.train.run import train

ROWS = 12


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sketches, in the registries of this test only."""
    for registry in (TASKS, SYSTEMS):
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    for network, task in SKETCHES.items():
        TASKS.register(task.name)(task)
        SYSTEMS.register(task.name)(network)


def split_of(number: int) -> str:
    return "test" if number > 8 else "val" if number > 5 else "train"


def images_with_points(folder: Path) -> Path:
    """Red and blue cells on grey."""
    rng = np.random.default_rng(0)
    lines = ["path,patient,split,mpp,points"]
    for number in range(ROWS):
        pixels = np.full((64, 96, 3), 200, np.uint8)
        table = ["x,y,class"]
        for cell, (x, y) in enumerate(zip(rng.permutation(11) * 8 + 6, rng.integers(6, 58, 11), strict=True)):
            pixels[y - 1 : y + 2, x - 1 : x + 2] = (220, 20, 20) if cell % 2 else (20, 20, 220)
            table.append(f"{x},{y},{'red' if cell % 2 else 'blue'}")
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.csv").write_text("\n".join(table) + "\n")
        lines.append(f"{number}.png,p{number},{split_of(number)},1.0,{number}.csv")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def stores_with_features(folder: Path) -> Path:
    """The first feature decides: the label by its sign, the time by its size."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "image.png")
    lines = ["path,label,patient,split,time,event"]
    for number in range(ROWS):
        path = folder / f"{number}.zarr"
        with open_slide(folder / "image.png") as slide:
            tile_slide(slide, path, TileConfig(tile_size=32, tissue="none", scores="none"))
        strength = (-1) ** number * (1 + rng.random())
        features = rng.normal(0, 0.05, (20, 3)).astype(np.float32)
        features[:, 0] += strength
        zarr.create_array(path / "features" / "tiny" / "default", data=features)
        lines.append(f"{number}.zarr,{'a' if strength > 0 else 'b'},p{number},{split_of(number)},{9 - strength:.3f},1")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


@pytest.mark.parametrize("network", SKETCHES)
def test_a_task_of_another_package_is_trained_evaluated_and_answers(network: type[Network], tmp_path: Path) -> None:
    task = SKETCHES[network]
    (tmp_path / "data").mkdir()
    manifest = (images_with_points if network is PointNet else stores_with_features)(tmp_path / "data")
    config = TrainConfig(system=task.name, epochs=80, learning_rate=0.2, averaging=0.5, device="cpu")
    summary = train(manifest, tmp_path / "run", config, options=RunOptions(name="sketch"))
    assert summary.state == "trained"
    assert summary.metrics[task.measure]["value"] > 0.9
    assert "## Metrics on the validation set\n\n| metric" in (summary.checkpoint / "card.md").read_text()
    assert task.measure in (tmp_path / "run" / "report.html").read_text()
    assert train(manifest, tmp_path / "run", config, options=RunOptions(name="sketch")).state == "skipped"

    checkpoint = load_checkpoint(summary.checkpoint)
    assert isinstance(checkpoint.network, network)
    report, failures = evaluate_into(tmp_path / "report", [checkpoint], EvaluationJob(manifest, EvaluateConfig()))
    assert not failures
    assert (report["n"], report["groups"], report["split"]) == (3, 3, "test")
    assert report[task.measure]["value"] > 0.9
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    assert len((tmp_path / "report" / "predictions.csv").read_text().splitlines()) == 4

    inputs = [Input(row.path, row.mpp) for row in read_manifest(manifest, need_label=False) if row.split == "test"]
    inference, batch = inference_of(checkpoint, PredictConfig()), Batch(tmp_path / "out")
    outcomes = list(run_inputs([*inputs, Input(tmp_path / "gone.png")], inference, batch))
    assert [outcome.state for outcome in outcomes] == ["answered"] * 3 + ["failed"]
    assert [outcome.state for outcome in run_inputs(inputs, inference, batch)] == ["skipped"] * 3
    assert all(outcome.answer.line.startswith(str(outcome.path)) for outcome in outcomes[:3])
    if network is PointNet:
        cells = pyarrow.parquet.read_table(tmp_path / "out" / "9.detection-sketch.parquet")
        assert len(cells) == len(outcomes[0].answer.record[task.name]["cells"]) == 11
        assert len(json.loads((tmp_path / "out" / "9.detection-sketch.geojson").read_text())["features"]) == 11
    with pytest.raises(UsageError, match=task.name):
        inference_of(checkpoint, PredictConfig(mc_dropout=2))


def test_every_built_in_task_is_one(tmp_path: Path) -> None:
    for name in TASKS.built_in:
        task = TASKS.get(name)
        assert isinstance(task, Task)
        assert task.name == name
        assert task.measure


def test_further_columns_of_a_manifest_reach_the_task(tmp_path: Path) -> None:
    manifest = images_with_points(tmp_path)
    assert [dict(row.cells) for row in read_manifest(manifest, need_label=False)][3] == {"points": "3.csv"}
