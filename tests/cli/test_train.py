"""Training, evaluating and predicting with what was trained, as a user does."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import wsi_attn

TINY = (
    "--epochs",
    "3",
    "--batch-size",
    "4",
    "--patch-size",
    "32",
    "--coarse-factor",
    "4",
    "--instances",
    "2",
    "--quiet",
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish and greenish images, two a patient, with a test part."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = ["image_path,target,case_id,split"]
    for patient in range(10):
        label = "red" if patient % 2 else "green"
        for number in range(2):
            pixels = rng.normal(150, 20, (96, 128, 3))
            pixels[..., 0 if label == "red" else 1] += 60
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{patient}_{number}.png")
            rows.append(f"{patient}_{number}.png,{label},p{patient},{'test' if patient > 7 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "colours"
    (record,) = wsi_attn("train", manifest, "--output", run, *TINY, "--json").json()
    assert record["state"] == "trained"
    assert record["split"] == "val"
    return run


def test_run_folder_is_whole(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {"run.json", "splits.csv", "log.csv", "metrics.json", "checkpoint"}
    files = {path.name for path in (run / "checkpoint").iterdir()}
    assert files == {"model.safetensors", "config.json", "card.md", "provenance.json"}
    assert len((run / "log.csv").read_text().splitlines()) == 4
    assert "Research and demonstration only" in (run / "checkpoint" / "card.md").read_text()


def test_splits_are_by_patient(run: Path) -> None:
    lines = [line.split(",") for line in (run / "splits.csv").read_text().splitlines()[1:]]
    parts: dict[str, set[str]] = {}
    for _, _, patient, split in lines:
        parts.setdefault(patient, set()).add(split)
    assert all(len(found) == 1 for found in parts.values())
    assert {"train", "val", "test"} == {next(iter(found)) for found in parts.values()}


def test_evaluate_reports_intervals(run: Path, manifest: Path) -> None:
    (record,) = wsi_attn("evaluate", run, manifest, "--json").json()
    assert (record["n"], record["groups"], record["split"]) == (4, 2, "test")
    for metric in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "ece"):
        assert set(record[metric]) == {"value", "low", "high"}
    assert set(record["per_class"]) == {"red", "green"}
    assert "evaluate" in record["command"]


def test_predict_with_the_run_needs_no_pixel_size(run: Path, manifest: Path, tmp_path: Path) -> None:
    (record,) = wsi_attn(
        "predict", manifest.parent / "9_0.png", "--model", run, "--output", tmp_path, "--json", "--ignore-fit"
    ).json()
    assert record["model"]["name"] == "colours"
    assert set(record["probabilities"]) == {"red", "green"}


def test_finished_run_is_left_alone_and_other_settings_are_refused(run: Path, manifest: Path) -> None:
    before = (run / "checkpoint" / "model.safetensors").read_bytes()
    (record,) = wsi_attn("train", manifest, "--output", run, *TINY, "--json").json()
    assert record["state"] == "skipped"
    assert "--overwrite" in wsi_attn("train", manifest, "--output", run, *TINY, "--seed", "1", code=3).error()
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == before


def test_killed_run_ends_with_the_same_weights(run: Path, manifest: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "wsi_attn", "train", str(manifest), "--output", str(killed), *TINY]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(2400):
        if (killed / "log.csv").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()
    (record,) = wsi_attn("train", manifest, "--output", killed, *TINY, "--json").json()
    assert record["state"] == "resumed"
    ours, theirs = ((folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (killed, run))
    assert ours == theirs


def test_unknown_system_gets_near_misses(manifest: Path, tmp_path: Path) -> None:
    error = wsi_attn("train", manifest, "--output", tmp_path / "r", "--model", "deep-atention", code=2).error()
    assert "deep-attention" in error


def test_evaluate_refuses_what_it_cannot_measure(run: Path, manifest: Path, tmp_path: Path) -> None:
    assert "no rows of split" in wsi_attn("evaluate", run, manifest, "--split", "holdout", code=3).error()
    other = manifest.parent / "other.csv"
    other.write_text("path,label,split\n9_0.png,blue,test\n")
    assert "knows no label 'blue'" in wsi_attn("evaluate", run, other, code=3).error()


def test_training_on_slides_and_stores(demo_slide: Path, tmp_path: Path) -> None:
    """Slides are trained on as images are: two copies of one slide and of its store, in two classes."""
    for part in ("train", "val"):
        wsi_attn("tile", demo_slide, "--output", tmp_path / f"{part}.zarr", "--quiet")
        shutil.copy(demo_slide, tmp_path / f"{part}.svs")
    rows = ["path,label,split"]
    rows += [f"{part}.{kind},{kind},{part}" for part in ("train", "val") for kind in ("svs", "zarr")]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    wsi_attn(
        "train",
        tmp_path / "m.csv",
        "--output",
        tmp_path / "run",
        "--mpp",
        "1",
        "--tissue",
        "otsu",
        *TINY,
        "--epochs",
        "1",
    )
    config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert config["spec"]["mpp"] == 1


def test_real_fields(collection: Callable[[str], Path], tmp_path: Path) -> None:
    index = collection("classify/ucsb_breast/index.csv")
    (record,) = wsi_attn(
        "train", index, "--output", tmp_path / "run", *TINY[2:], "--epochs", "1", "--patch-size", "64", "--json"
    ).json()
    assert record["n"] == 6


def test_regions_drawn_in_qupath_say_where_to_look(manifest: Path, tmp_path: Path) -> None:
    ring = [[16, 8], [80, 8], [80, 72], [16, 72], [16, 8]]
    box = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "box.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [box]}))
    header, *rows = manifest.read_text().splitlines()
    drawn = [f"{manifest.parent / row},box.geojson" for row in rows]
    (tmp_path / "drawn.csv").write_text("\n".join([f"{header},regions", *drawn]) + "\n")
    wsi_attn("train", tmp_path / "drawn.csv", "--output", tmp_path / "run", *TINY)
    (report,) = wsi_attn("evaluate", tmp_path / "run", tmp_path / "drawn.csv", "--split", "test", "--json").json()
    assert report["n"] == 4
    (tmp_path / "drawn.csv").write_text(f"{header},regions\n{drawn[0]}\n{drawn[1].replace('box', 'gone')}\n")
    error = wsi_attn("train", tmp_path / "drawn.csv", "--output", tmp_path / "other", *TINY, code=3).error()
    assert "row 3" in error
    assert "gone.geojson of regions" in error
