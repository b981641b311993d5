"""Training, evaluation and prediction on files of features, as a user of CLAM, TRIDENT or STAMP has them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cli.runner import in_process, wsi_attn
from wsi_attn.store.predictions import read_prediction

WIDTH, SIDE = 6, 512
SMALL = ("--embedding", "16", "--hidden", "8", "--epochs", "8", "--batch-size", "4", "--device", "cpu")


def write_bag(path: Path, rng: np.random.Generator, *, positive: bool, width: int = WIDTH) -> None:
    """Tiles of noise; a positive bag has one tile, the third, that stands out."""
    count = int(rng.integers(6, 14))
    values = rng.normal(0, 1, (count, width)).astype(np.float16)
    if positive:
        values[2] = 6
    with h5py.File(path, "w") as file:
        file["features"] = values
        file["coords"] = np.stack([np.arange(count) % 4 * SIDE, np.arange(count) // 4 * SIDE], axis=1)
        file["coords"].attrs["patch_size_level0"] = SIDE


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag a patient, of one slide or of two."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    rows = ["path,label,patient,split"]
    for number in range(36):
        positive = number % 2 == 1
        names = [f"{number}.h5", f"{number}b.h5"][: 1 + number % 3 // 2]
        for name in names:
            write_bag(folder / name, rng, positive=positive)
        split = "test" if number > 27 else "val" if number > 19 else "train"
        rows.append(f"{';'.join(names)},{'tumour' if positive else 'normal'},p{number},{split}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "mil"
    (record,) = wsi_attn(
        "train", manifest, "--model", "gated-mil", *SMALL, "--learning-rate", "0.01", "--output", run, "--json"
    ).json()
    assert record["state"] == "trained"
    assert record["balanced_accuracy"]["value"] == 1
    return run


def test_it_is_a_model_like_others(run: Path, manifest: Path, tmp_path: Path) -> None:
    card = (run / "checkpoint" / "card.md").read_text()
    assert "A gated-mil model that predicts one of: normal, tumour." in card
    assert "- Input: 6 stored features of each tile" in card
    found = json.loads(wsi_attn("evaluate", run, manifest, "--report", tmp_path / "report", "--json").stdout)
    assert (found["n"], found["accuracy"]["value"]) == (8, 1)
    assert {"calibration", "conformal", "uncertainty"} <= set(found)
    table = list(csv.DictReader((tmp_path / "report" / "predictions.csv").read_text().splitlines()))
    assert table[1]["path"] == "29.h5;29b.h5"
    assert (tmp_path / "report" / "report.html").is_file()


def test_a_prediction_has_the_attention_of_every_tile(run: Path, manifest: Path, tmp_path: Path) -> None:
    one = manifest.parent / "31.h5"
    (record,) = wsi_attn("predict", one, "--model", run, "--output", tmp_path, "--mc-dropout", "4", "--json").json()
    assert record["label"] == "tumour"
    assert record["mc_dropout"] == 4
    first = record["attention"][0]
    assert (first["x"], first["y"], first["width"], first["height"]) == (2 * SIDE, 0, SIDE, SIDE)
    with h5py.File(one) as file:
        count = len(file["features"])
    assert record["attention_count"] == count
    assert sum(region["weight"] for region in record["attention"]) == pytest.approx(1)
    found = read_prediction(tmp_path / "31.prediction.json")
    values = found.attention_map.values
    assert np.nansum(values) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(values).sum() == count
    assert np.nanargmax(values) == 2
    assert set(found.maps) == {"evidence:normal", "evidence:tumour", "uncertainty"}
    again = wsi_attn("predict", one, "--model", run, "--output", tmp_path, "--mc-dropout", "4")
    assert "already complete" in again.stderr


def test_a_manifest_is_predicted_by_patient(run: Path, manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = in_process(capsys, "predict", manifest, "--model", run, "--coverage", "0.8").stdout.splitlines()
    assert len(lines) == 36
    right = [line.split("\t")[1] == ("tumour" if number % 2 else "normal") for number, line in enumerate(lines)]
    assert np.mean(right) > 0.9


def test_folds_pool_all_bags(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    table = manifest.parent / "folds.csv"
    table.write_text("path,label,patient\n" + "".join(f"{r['path']},{r['label']},{r['patient']}\n" for r in rows))
    command = ("train", table, "--model", "gated-mil", *SMALL, "--epochs", "2", "--folds", "3", "--pooling", "max")
    command = (*command, "--instance-dropout", "0.2", "--output", tmp_path / "run", "--json")
    (record,) = in_process(capsys, *command).json()
    assert record["n"] == 36
    assert len(record["per_fold"]) == 3


def test_equal_runs_have_equal_weights(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = []
    for name in ("first", "second"):
        command = ("train", manifest, "--model", "gated-mil", *SMALL, "--epochs", "2", "--instance-dropout", "0.3")
        in_process(capsys, *command, "--feature-noise", "0.1", "--output", tmp_path / name)
        hashes.append(json.loads((tmp_path / name / "checkpoint" / "config.json").read_text())["weights_sha256"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            "wide.h5,normal,q,",
            "row 4: Cannot use the features of {}/wide.h5: has 7 features a tile, but the model",
        ),
        ("nan.npy,normal,q,", "row 4: Cannot use the features of {}/nan.npy: tile 1 has a feature that is NaN"),
        ("0.h5,normal,p0,test", "patient 'p0' is in train (row 2) and in test (row 4)"),
    ],
)
def test_a_bad_row_stops_training_with_one_line(
    row: str, problem: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = manifest.parent
    write_bag(folder / "wide.h5", np.random.default_rng(1), positive=False, width=7)
    np.save(folder / "nan.npy", np.array([[0] * WIDTH, [np.nan] * WIDTH], np.float32))
    table = folder / "bad.csv"
    table.write_text(
        f"path,label,patient,split\n0.h5,normal,p0,train\n1.h5,tumour,p1,train\n{row}\n3.h5,tumour,p3,val\n"
    )
    command = ("train", table, "--model", "gated-mil", *SMALL, "--output", tmp_path / "run")
    error = in_process(capsys, *command, code=3).error()
    assert str(table) in error
    assert problem.format(folder) in error
    assert not (tmp_path / "run").exists()


def test_pixels_and_features_are_not_confused(
    run: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    error = in_process(capsys, "predict", tmp_path / "a.png", "--model", run, code=3).error()
    assert "it has pixels, but the model reads features of tiles" in error
    error = in_process(capsys, "predict", manifest.parent / "0.h5", code=3).error()
    assert "0.h5: it contains features of tiles" in error
    write_bag(tmp_path / "wide.h5", np.random.default_rng(1), positive=False, width=7)
    error = in_process(capsys, "predict", tmp_path / "wide.h5", "--model", run, code=3).error()
    assert "wide.h5: has 7 features a tile, but the model reads 6; use features of the same encoder" in error
    error = in_process(capsys, "predict", manifest.parent / "0.h5", "--model", run, "--exhaustive", code=2).error()
    assert "--exhaustive needs pixels" in error
    error = in_process(
        capsys, "train", manifest, "--model", "gated-mil", "--mpp", "0.5", "--output", tmp_path / "x", code=2
    ).error()
    assert "--model gated-mil has no option --mpp" in error
