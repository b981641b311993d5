"""Checkpoints with damaged weights: refused, with and without a hash in the configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.cli.runner import in_process
from wsi_attn.models.zoo import WEIGHTS, WEIGHTS_SHA256, shipped_models


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped_models()["cellularity-he"], tmp_path / "model"))


def test_one_flipped_bit_of_the_weights_is_refused(
    copied: Path, demo_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = bytearray((copied / WEIGHTS).read_bytes())
    weights[-1000] ^= 1
    (copied / WEIGHTS).write_bytes(weights)
    error = in_process(capsys, "predict", demo_slide, "--model", copied, code=3).error()
    assert str(copied / WEIGHTS) in error
    assert "damaged" in error


def test_weights_that_are_not_finite_are_refused_where_no_hash_is_recorded(
    copied: Path, demo_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config.pop(WEIGHTS_SHA256)
    (copied / "config.json").write_text(json.dumps(config))
    in_process(capsys, "predict", demo_slide, "--model", copied)  # a checkpoint of an earlier release
    weights = load_file(copied / WEIGHTS)
    name = next(name for name, values in weights.items() if values.ndim > 1)
    weights[name].flat[0] = float("nan")
    save_file(weights, copied / WEIGHTS)
    error = in_process(capsys, "predict", demo_slide, "--model", copied, code=3).error()
    assert name in error
    assert "not finite" in error


@pytest.mark.parametrize(
    ("key", "value"),
    [("std", [float("nan"), 1.0, 1.0]), ("coarse_factor", None), ("smoothing", "x"), ("exploration", []), ("mean", 5)],
)
def test_network_settings_that_are_no_values_are_refused(
    key: str, value: object, copied: Path, demo_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["network"][key] = value
    (copied / "config.json").write_text(json.dumps(config))
    assert str(copied) in in_process(capsys, "predict", demo_slide, "--model", copied, code=3).error()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", ["dense", "moderate"]),
        ("labels", ["dense", "dense", "sparse"]),
        ("labels", []),
        ("mpp", -0.5),
        ("calibration", {"temperature": 0.0, "validation_images": 20}),
        ("calibration", {"temperature": -1.0, "validation_images": 20}),
        ("calibration", {"operating_points": [None], "validation_images": 20}),
        ("appearance", {"mean": [], "precision": [], "limit": 1.0}),
        ("appearance", {"mean": [0.0] * 4, "precision": [0.0] * 15, "limit": 1.0}),
        ("appearance", {"mean": [0.0] * 4, "precision": [0.0] * 16, "limit": 0.0}),
    ],
)
def test_specifications_that_contradict_themselves_are_refused(
    key: str, value: object, copied: Path, demo_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["spec"][key] = value
    (copied / "config.json").write_text(json.dumps(config))
    error = in_process(capsys, "predict", demo_slide, "--model", copied, code=3).error()
    assert str(copied) in error
    assert next(iter(value)) in error if key == "calibration" and isinstance(value, dict) else key in error


def test_network_settings_beyond_all_bounds_are_refused(
    copied: Path, demo_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["network"]["smoothing"] = 2**70
    (copied / "config.json").write_text(json.dumps(config))
    assert "smoothing" in in_process(capsys, "predict", demo_slide, "--model", copied, code=3).error()
