"""Runs: the same seed gives the same bytes, killed or not; a finished run stays, another's is refused."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_attn.data.appearance import appearance_distance
from wsi_attn.errors import ManifestError, OutputBusyError, OutputExistsError, SlideUnsupportedError, UsageError
from wsi_attn.models.checkpoint import load_checkpoint
from wsi_attn.outputs.lock import output_lock
from wsi_attn.slide import OneInput
from wsi_attn.tasks.clock import TIMING
from wsi_attn.tasks.config import Resources, RunOptions, TrainConfig
from wsi_attn.train.run import train

NETWORK = {
    "coarse_factor": 4,
    "patch_size": 16,
    "instances": 2,
    "coarse_widths": [4, 4],
    "patch_widths": [4, 4],
    "hidden": 4,
}
CONFIG = TrainConfig(epochs=3, batch_size=4, seed=5)
NAMED = RunOptions(name="m")

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from wsi_attn.slide import OneInput
from wsi_attn.tasks.config import RunOptions, TrainConfig
from wsi_attn.train.run import train

torch.set_num_threads(1)
manifest, run, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def progress(done, total, what):
    if when == "within" and what.startswith("training: epoch 2") and done == total // 3 + 2:
        die()

def log(record):
    if when == "after" and record["epoch"] == 1:
        die()

config, network = TrainConfig(**eval(sys.argv[4])), eval(sys.argv[5])
train(manifest, run, config, network, RunOptions(name="m"), progress=OneInput(progress), log=log)
"""


def write_images(folder: Path) -> Path:
    """Two colours, two images a patient, two sizes; the rows of the test part cannot be decoded."""
    rng = np.random.default_rng(0)
    rows = ["path,label,patient,split"]
    for patient in range(8):
        label = "red" if patient % 2 else "green"
        for number in range(2):
            pixels = rng.normal(150, 20, (48 + 16 * number, 64, 3))
            pixels[..., 0 if label == "red" else 1] += 60
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{patient}_{number}.png")
            rows.append(f"{patient}_{number}.png,{label},p{patient},")
    (folder / "damaged.png").write_bytes((folder / "0_0.png").read_bytes()[:99])
    rows += ["damaged.png,red,p90,test", "damaged.png,red,p90,test"]
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted; it succeeds although the test rows are damaged, so they were never opened."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    summary = train(manifest, run, CONFIG, NETWORK, NAMED)
    assert summary.state == "trained"
    return run


def weights(run: Path) -> bytes:
    return (run / "checkpoint" / "model.safetensors").read_bytes()


def epochs_of(run: Path) -> list[dict[str, str]]:
    """The log without what depends on the machine."""
    with (run / "log.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMING} for row in csv.DictReader(file)]


def test_same_seed_same_weights_other_seed_other_weights(manifest: Path, whole: Path, tmp_path: Path) -> None:
    train(manifest, tmp_path / "again", CONFIG, NETWORK, NAMED)
    train(manifest, tmp_path / "other", replace(CONFIG, seed=6), NETWORK, NAMED)
    assert weights(tmp_path / "again") == weights(whole)
    assert weights(tmp_path / "other") != weights(whole)
    assert epochs_of(tmp_path / "again") == epochs_of(whole)
    for name in ("splits.csv", "predictions.csv", "run.json"):
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["after", "within"])
def test_killed_and_resumed_is_as_if_never_killed(when: str, manifest: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"epochs": CONFIG.epochs, "batch_size": CONFIG.batch_size, "seed": CONFIG.seed}
    arguments = [str(manifest), str(run), when, repr(settings), repr(NETWORK)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((run / "state" / "state.json").read_text())["epoch"] == 1
    assert not (run / "checkpoint").exists()
    (run / ".state.0123abcd.tmp").mkdir()  # what a kill in the midst of a write leaves behind
    (run / ".log.csv.0123abcd.tmp").touch()

    epochs: list[float] = []
    summary = train(manifest, run, CONFIG, NETWORK, NAMED, log=lambda record: epochs.append(record["epoch"]))
    assert summary.state == "resumed"
    assert epochs == [1, 2, 3]
    assert weights(run) == weights(whole)
    assert epochs_of(run) == epochs_of(whole)
    for name in ("splits.csv", "predictions.csv", "run.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_run_that_another_process_trains_is_refused(manifest: Path, tmp_path: Path) -> None:
    with output_lock(tmp_path / "run"), pytest.raises(OutputBusyError):
        train(manifest, tmp_path / "run", CONFIG, None, RunOptions(overwrite=True))
    assert not (tmp_path / "run").exists()


def test_finished_run_is_left_alone(manifest: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    told: list[str] = []
    summary = train(
        manifest,
        whole,
        CONFIG,
        NETWORK,
        NAMED,
        progress=OneInput(lambda done, total, what: told.append(what)),
    )
    assert summary.state == "skipped"
    assert summary.metrics["n"] == 4
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert not told


def test_options_as_tuples_are_the_same_options(manifest: Path, whole: Path) -> None:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in NETWORK.items()}
    assert train(manifest, whole, CONFIG, options, NAMED).state == "skipped"


def test_other_settings_options_or_data_are_refused(manifest: Path, whole: Path, tmp_path: Path) -> None:
    other = manifest.with_name("other.csv")
    other.write_text(manifest.read_text() + "0_0.png,green,p0,\n")
    for arguments in [
        (manifest, whole, replace(CONFIG, epochs=4), NETWORK),
        (manifest, whole, CONFIG, {**NETWORK, "hidden": 8}),
        (other, whole, CONFIG, NETWORK),
    ]:
        with pytest.raises(OutputExistsError):
            train(*arguments)
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(OutputExistsError, match="not a training run"):
        train(manifest, tmp_path, CONFIG, NETWORK)
    assert (tmp_path / "thesis.docx").exists()


def test_overwriting_starts_anew(manifest: Path, whole: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1)
    train(manifest, tmp_path / "run", replace(config, seed=9), NETWORK)
    assert train(manifest, tmp_path / "run", config, NETWORK, RunOptions(overwrite=True)).state == "trained"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["seed"] == CONFIG.seed


def test_validation_is_by_patient_and_test_rows_are_kept_apart(whole: Path) -> None:
    rows = [line.split(",") for line in (whole / "splits.csv").read_text().splitlines()[1:]]
    assert {split for *_, patient, split in rows if patient == "p90"} == {"test"}
    by_patient = {patient: split for *_, patient, split in rows}
    assert all(by_patient[patient] == split for *_, patient, split in rows)
    assert sorted(by_patient.values()) == ["test"] + ["train"] * 6 + ["val"] * 2


def test_checkpoint_says_what_it_was_made_of(manifest: Path, whole: Path) -> None:
    checkpoint = load_checkpoint(whole / "checkpoint")
    assert checkpoint.spec.labels == ("green", "red")
    assert checkpoint.network.config.coarse_widths == (4, 4)
    assert len(checkpoint.spec.appearance.mean) == 4
    assert appearance_distance(np.array(checkpoint.spec.appearance.mean), checkpoint.spec.appearance) == 0
    provenance = json.loads((whole / "checkpoint" / "provenance.json").read_text())
    assert provenance["config"]["seed"] == CONFIG.seed
    card = (whole / "checkpoint" / "card.md").read_text()
    assert "| train | 12 | 6 |" in card
    assert "| val | 4 | 2 |" in card


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["0_0.png,red,p0,", "0_1.png,red,p1,"], "at least two"),
        (["0_0.png,red,p0,", "1_0.png,green,p1,"], "too few patients"),
        (["0_0.png,red,p0,train", "1_0.png,green,p1,train", "2_0.png,blue,p2,val"], "row 4: label 'blue'"),
    ],
)
def test_cohorts_that_cannot_be_trained_on(rows: list[str], said: str, manifest: Path, tmp_path: Path) -> None:
    table = manifest.with_name("small.csv")
    table.write_text("path,label,patient,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(ManifestError, match=said):
        train(table, tmp_path / "run", CONFIG, NETWORK)
    assert not (tmp_path / "run").exists()


def test_damaged_training_image_is_named(manifest: Path, tmp_path: Path) -> None:
    table = manifest.with_name("damaged.csv")
    table.write_text(manifest.read_text().replace("p90,test", "p90,train"))
    with pytest.raises(SlideUnsupportedError, match=r"damaged\.png"):
        train(table, tmp_path / "run", CONFIG, NETWORK)
    table.write_text(manifest.read_text())  # mended: nothing was trained yet, so the same folder serves
    assert train(table, tmp_path / "run", replace(CONFIG, epochs=1), NETWORK).state == "trained"


def test_gradients_add_up_over_batches(manifest: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, batch_size=2, accumulate=2)
    train(manifest, tmp_path / "run", config, NETWORK)
    assert weights(tmp_path / "run") != b""
    (epoch,) = epochs_of(tmp_path / "run")
    assert float(epoch["loss"]) > 0


def test_training_ends_when_validation_stalls(manifest: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=30, patience=1, learning_rate=0.3, schedule="constant", averaging=0.0)
    train(manifest, tmp_path / "run", config, NETWORK)
    losses = [float(epoch["val_loss"]) for epoch in epochs_of(tmp_path / "run")]
    assert len(losses) < 30
    assert losses[-1] >= min(losses[:-1])


def test_warm_up_trains_the_global_head_only(manifest: Path, tmp_path: Path) -> None:
    train(manifest, tmp_path / "run", replace(CONFIG, warm_up_epochs=1), NETWORK)
    first, second, _ = epochs_of(tmp_path / "run")
    assert first["fused"] == ""
    assert float(first["global"]) > 0
    assert float(second["fused"]) > 0


def test_tensorboard_holds_the_log(manifest: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(
        manifest,
        tmp_path / "run",
        replace(CONFIG, epochs=2),
        NETWORK,
        RunOptions(resources=Resources(tensorboard=True)),
    )
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    written = [event.value for event in events.Scalars("val_loss")]
    assert written == pytest.approx([float(epoch["val_loss"]) for epoch in epochs_of(tmp_path / "run")], rel=1e-4)


def test_options_of_another_system_are_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="deep-attention has no option --kernels"):
        train(manifest, tmp_path / "run", CONFIG, {"kernels": 3})
    with pytest.raises(UsageError, match="no pretrained weights"):
        train(manifest, tmp_path / "run", CONFIG, NETWORK, RunOptions(weights="pretrained"))
    with pytest.raises(UsageError, match="no such file"):
        train(manifest, tmp_path / "other", CONFIG, NETWORK, RunOptions(weights="gone.safetensors"))


def test_folds_hold_every_patient_out_once_and_pool(manifest: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = replace(CONFIG, epochs=1, folds=2)
    summary = train(manifest, run, config, NETWORK)
    assert summary.state == "trained"
    assert (summary.metrics["n"], summary.metrics["groups"], summary.metrics["split"]) == (16, 8, "out-of-fold")
    assert [fold["n"] for fold in summary.metrics["per_fold"]] == [8, 8]
    held: list[str] = []
    for folder in summary.folds:
        assert load_checkpoint(folder / "checkpoint").spec.labels == ("green", "red")
        with (folder / "splits.csv").open() as file:
            rows = list(csv.DictReader(file))
        parts = {split: {row["patient"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
        assert all(parts.values())
        assert sum(map(len, parts.values())) == 8
        held += sorted(parts["test"])
    assert sorted(held) == [f"p{number}" for number in range(8)]

    before = weights(summary.folds[0])
    (run / "metrics.json").unlink()
    (summary.folds[1] / "metrics.json").unlink()  # as if it had been killed in the second fold
    again = train(manifest, run, config, NETWORK)
    assert again.state == "resumed"
    assert again.metrics["accuracy"] == summary.metrics["accuracy"]
    assert weights(summary.folds[0]) == before
    assert train(manifest, run, config, NETWORK).state == "skipped"
    with pytest.raises(ManifestError, match="--folds 5: label 'green' has 4 patients"):
        train(manifest, tmp_path / "five", replace(config, folds=5), NETWORK)


@pytest.mark.parametrize("folds", [0, 2])
def test_a_run_that_cannot_start_leaves_no_files(manifest: Path, whole: Path, tmp_path: Path, folds: int) -> None:
    """Neither in a new folder nor in that of a run that it would have replaced."""
    config = replace(CONFIG, care="boxes", rare_classes=("red",), folds=folds)
    kept = shutil.copytree(whole, tmp_path / "kept")
    for run in (tmp_path / "new", kept):
        before = contents(run)
        with pytest.raises(ManifestError):
            train(manifest, run, config, NETWORK, RunOptions(overwrite=True))
        assert contents(run) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
