"""Evaluating whole cohorts: every section, folds, reports that are finished, in the way, or another's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.calibrated import SPEC, answers_of, calibrated_spec, save_drawn, write_cohort
from tests.slides import ArraySlide, stained
from wsi_attn.errors import CheckpointError, ManifestError, OutputExistsError, UsageError
from wsi_attn.inference.evaluation import evaluate_into
from wsi_attn.models.calibration import Calibration, with_temperature
from wsi_attn.models.checkpoint import Checkpoint, load_checkpoint
from wsi_attn.models.configs import BAGS, task_of
from wsi_attn.models.systems import SYSTEMS, build_network
from wsi_attn.models.zoo import find_models
from wsi_attn.store.predictions import read_prediction, write_prediction
from wsi_attn.tasks.base import EvaluationJob
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.slide import predict_slide
from wsi_attn.tasks.config import EvaluateConfig

CONFIG = PredictConfig(allow_out_of_distribution=True, workers=1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(save_drawn(tmp_path_factory.mktemp("runs") / "run", 0, calibrated_spec()) / "checkpoint")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    for fold in (1, 2, 10):
        save_drawn(folder / f"fold-{fold}", fold, calibrated_spec())
    return folder


def job(manifest: Path, **wanted: Any) -> EvaluationJob:
    return EvaluationJob(manifest, EvaluateConfig(**wanted), allow_out_of_distribution=True, workers=1)


def report(checkpoints: list[Checkpoint], manifest: Path, folder: Path | None = None, **wanted: Any) -> dict[str, Any]:
    found, failures = evaluate_into(folder, checkpoints, job(manifest, **wanted))
    assert failures == []
    return found


def uncalibrated(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, spec=replace(checkpoint.spec, calibration=Calibration()))


def test_the_report_has_every_section(run: Checkpoint, manifest: Path) -> None:
    found = report([run], manifest)
    assert (found["n"], found["groups"]) == (7, 3)
    assert found["calibration"]["validation_images"] == 12
    assert set(found["calibration"]["before"]) == {"ece", "brier", "nll", "reliability"}
    assert found["ece"] == found["calibration"]["after"]["ece"]
    coverages = found["conformal"]["coverages"]
    assert set(coverages["0.9"]) == {"threshold", "coverage", "set_size", "unsure"}
    assert coverages["0.95"] == {"threshold": None}
    assert (found["attention"]["n"], found["attention"]["skipped"]) == (6, 0)
    for measure in ("pointing_game", "mass_in_region", "auprc", "places_hit"):
        assert 0 < found["attention"][measure]["chance"] < 1
    assert found["unanswered"] == []
    json.dumps(found, allow_nan=False)


def test_a_model_without_calibration_has_fewer_sections(run: Checkpoint, manifest: Path) -> None:
    plain = uncalibrated(run)
    found, before = report([plain], manifest), report([run], manifest)["calibration"]["before"]
    assert not {"calibration", "conformal", "operating_point"} & set(found)
    assert (found["ece"], found["brier"]) == (before["ece"], before["brier"])
    with pytest.raises(UsageError, match="no operating points for 'red'"):
        report([plain], manifest, positive="red", sensitivity=0.9)


def test_the_operating_point_is_that_of_the_checkpoint(run: Checkpoint, manifest: Path) -> None:
    found = report([run], manifest, positive="red", sensitivity=0.8)["operating_point"]
    assert found["threshold"] == run.spec.calibration.operating_points[1][79]
    assert (found["wanted_sensitivity"], found["chosen_on"]) == (0.8, "12 validation images")


def test_folds_answer_with_their_mean(folds: Path, manifest: Path, tmp_path: Path) -> None:
    checkpoints = [load_checkpoint(folder) for folder in find_models(str(folds))]
    assert [checkpoint.name for checkpoint in checkpoints] == ["fold-1", "fold-2", "fold-10"]
    found = report(checkpoints, manifest, tmp_path / "all")
    for checkpoint in checkpoints:
        report([checkpoint], manifest, tmp_path / checkpoint.name)
    columns = {
        name: [float(row["probability:red"]) for row in answers_of(tmp_path / name)]
        for name in ("all", "fold-1", "fold-2", "fold-10")
    }
    mean = np.mean([columns[checkpoint.name] for checkpoint in checkpoints], axis=0)
    np.testing.assert_allclose(columns["all"], mean, atol=1e-5)
    assert [fold["name"] for fold in found["folds"]] == ["fold-1", "fold-2", "fold-10"]
    assert found["model"]["name"] == "mean of 3 folds"
    assert "no guarantee" in found["conformal"]["note"]
    assert "fold-1, fold-2, fold-10" in (tmp_path / "all" / "report.html").read_text()


def test_folds_must_be_whole_and_agree(folds: Path, run: Checkpoint, manifest: Path, tmp_path: Path) -> None:
    save_drawn(tmp_path / "fold-1", 0, SPEC)
    (tmp_path / "fold-2").mkdir()
    with pytest.raises(CheckpointError, match="1 of 2 folds finished"):
        find_models(str(tmp_path))
    other = replace(run, spec=replace(run.spec, labels=("red", "green")))
    with pytest.raises(CheckpointError, match="different labels"):
        report([run, other], manifest)


def test_a_finished_report_is_read_and_another_refused(run: Checkpoint, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    first = report([run], manifest, out)
    written = (out / "report.json").stat().st_mtime_ns
    assert report([run], manifest, out) == first
    assert (out / "report.json").stat().st_mtime_ns == written
    with pytest.raises(OutputExistsError):
        report([run], manifest, out, seed=5)
    other, _ = evaluate_into(out, [run], job(manifest, seed=5), overwrite=True)
    assert other["seed"] == json.loads((out / "report.json").read_text())["seed"] == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        report([run], manifest, tmp_path / "mine")


def test_a_manifest_that_is_not_there(run: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest"):
        report([run], tmp_path / "none.csv")


def test_the_temperature_changes_probabilities_and_no_label(run: Checkpoint) -> None:
    slide = ArraySlide(stained(128, 96))
    sure, plain = (predict_slide(slide, checkpoint, CONFIG) for checkpoint in (run, uncalibrated(run)))
    assert run.spec.calibration.temperature != 1
    expected = with_temperature(np.array(list(plain.probabilities.values())), run.spec.calibration.temperature)
    np.testing.assert_allclose(list(sure.probabilities.values()), expected)
    assert sure.label == plain.label
    asked_not = predict_slide(slide, run, replace(CONFIG, calibrate=False))
    assert asked_not.probabilities == plain.probabilities


def test_a_prediction_keeps_its_set(run: Checkpoint, tmp_path: Path) -> None:
    slide = ArraySlide(stained(128, 96))
    found = predict_slide(slide, run, replace(CONFIG, coverage=0.9))
    write_prediction(found, tmp_path / "a.prediction.json")
    again = read_prediction(tmp_path / "a.prediction.json")
    assert (again.prediction_set, again.coverage, again.unsure) == (found.prediction_set, 0.9, found.unsure)
    plain = predict_slide(slide, run, CONFIG)
    assert (plain.prediction_set, plain.unsure) == (None, False)
    assert not {"prediction_set", "coverage", "unsure"} & set(plain.record())
    with pytest.raises(UsageError, match="without --coverage"):
        predict_slide(slide, uncalibrated(run), replace(CONFIG, coverage=0.9))


def test_every_system_is_evaluated(manifest: Path) -> None:
    """With its defaults: whatever it says of places is scored, whatever it lacks is left out."""
    for name in [name for name in SYSTEMS.names() if task_of(name) != BAGS]:  # those read no images
        torch.manual_seed(0)
        coarse = {} if name == "joint-segmentation" else {"coarse_factor": 4}  # that one has no coarse view
        network = build_network(name, {"classes": 2, **coarse}).eval()
        found = report([Checkpoint(name, "0" * 64, name, calibrated_spec(), network)], manifest)
        assert found["n"] == 7
        measured = found["attention"]
        assert all(0 <= value["value"] <= 1 for value in measured.values() if isinstance(value, dict))
        if name == "cnn":  # it prefers no place
            for value in (measured["pointing_game"], measured["mass_in_region"], measured["auprc"]):
                assert value["value"] == pytest.approx(value["chance"])
            assert "places_hit" not in measured
