"""`evaluate` and `predict --coverage` with calibrated checkpoints, as a user runs them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.runner import wsi_attn
from wsi_attn.evaluate.calibration import fit_calibration
from wsi_attn.evaluate.metrics import OVERALL
from wsi_attn.models.checkpoint import ModelSpec, save_checkpoint
from wsi_attn.models.deep_attention import DeepAttention, DeepAttentionConfig

SPEC = ModelSpec(("green", "red"), None, "any", "none")


def save(folder: Path, seed: int, spec: ModelSpec) -> Path:
    """A checkpoint with drawn weights."""
    torch.manual_seed(seed)
    config = DeepAttentionConfig(
        classes=2, coarse_factor=4, patch_size=32, instances=2, coarse_widths=(4, 4), patch_widths=(4, 4), hidden=4
    )
    network = DeepAttention(config).eval()
    save_checkpoint(
        folder, name=folder.parent.name, system="deep-attention", network=network, spec=spec, card="", provenance={}
    )
    return folder


def answers_of(report: Path) -> list[dict[str, str]]:
    """The rows of a report's table."""
    return list(csv.DictReader((report / "answers.csv").read_text().splitlines()))


def calibrated_spec() -> ModelSpec:
    """Thresholds of 12 validation images: enough for a coverage of 0.9, too few for 0.95."""
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 2
    p = (0.5 + 0.3 * (2 * labels - 1) * generator.random(12) - 0.1 * generator.random(12)).clip(0.01, 0.99)
    return replace(SPEC, calibration=fit_calibration(labels, np.stack([1 - p, p], axis=1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images, a manifest with boxes and a row of two images, a checkpoint and a run of two folds."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    rows = ["path,label,patient,split,boxes"]
    for number in range(6):
        pixels = rng.normal(150, 20, (96, 128, 3))
        pixels[..., number % 2] += 60
        pixels[20:40, 30:60] = 30
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'green' if number % 2 else 'red'},p{number // 2},test,30 20 60 40")
    rows.append("0.png;2.png,red,p0,test,")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    save(folder / "run" / "checkpoint", 0, calibrated_spec())
    save(folder / "plain" / "checkpoint", 0, SPEC)
    for fold in (1, 2):
        save(folder / "folds" / f"fold-{fold}" / "checkpoint", fold, calibrated_spec())
    return folder


def test_the_report_has_every_section(folder: Path) -> None:
    (found,) = wsi_attn("evaluate", folder / "run", folder / "m.csv", "--json").json()
    assert (found["n"], found["groups"]) == (7, 3)
    assert set(found[OVERALL[0]]) == {"value", "low", "high"}
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


def test_a_model_without_calibration_is_evaluated_as_before(folder: Path) -> None:
    (found,) = wsi_attn("evaluate", folder / "plain", folder / "m.csv", "--json").json()
    assert "calibration" not in found
    assert "conformal" not in found
    said = wsi_attn("evaluate", folder / "plain", folder / "m.csv", "--sensitivity", "0.9", "--positive", "red", code=2)
    assert "no operating points for 'red'" in said.error()


def test_the_report_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = ("evaluate", folder / "run", folder / "m.csv", "--report", out)
    lines = wsi_attn(*command, "--sensitivity", "0.8", "--positive", "red").stdout.splitlines()
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html", "answers.csv"}
    report = json.loads((out / "report.json").read_text())
    assert (report["operating_point"]["positive"], report["operating_point"]["wanted_sensitivity"]) == ("red", 0.8)
    assert any(line.startswith("operating_point specificity\t") for line in lines)
    assert any(line.startswith("conformal coverages 0.9 coverage\t") for line in lines)
    page = (out / "report.html").read_text()
    assert "Research use only" in page
    assert "http" not in page
    rows = answers_of(out)
    assert [row["path"] for row in rows] == [*(f"{number}.png" for number in range(6)), "0.png;2.png"]
    for row in rows:
        shares = [float(row[f"probability:{label}"]) for label in SPEC.labels]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["called"] == SPEC.labels[int(np.argmax(shares))]
        assert set(row["set:0.9"].split("|")) <= {"", *SPEC.labels}
    assert "set:0.95" not in rows[0]


def test_a_finished_report_is_left_alone_and_another_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = ("evaluate", folder / "run", folder / "m.csv", "--report", out, "--json")
    (first,) = wsi_attn(*command).json()
    before = (out / "report.json").stat().st_mtime_ns
    (again,) = wsi_attn(*command).json()
    assert again == first
    assert (out / "report.json").stat().st_mtime_ns == before
    assert "--overwrite" in wsi_attn(*command, "--seed", "5", code=3).error()
    (other,) = wsi_attn(*command, "--seed", "5", "--overwrite").json()
    assert other["seed"] == 5
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert "no report" in wsi_attn(*command[:4], tmp_path / "notes", code=3).error()


def test_folds_answer_with_their_mean(folder: Path, tmp_path: Path) -> None:
    wsi_attn("evaluate", folder / "folds", folder / "m.csv", "--report", tmp_path / "both")
    for fold in ("fold-1", "fold-2"):
        wsi_attn("evaluate", folder / "folds" / fold, folder / "m.csv", "--report", tmp_path / fold)
    tables = {
        name: [float(row["probability:red"]) for row in answers_of(tmp_path / name)]
        for name in ("both", "fold-1", "fold-2")
    }
    np.testing.assert_allclose(tables["both"], np.mean([tables["fold-1"], tables["fold-2"]], axis=0), atol=1e-5)
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    assert [fold["name"] for fold in report["folds"]] == ["fold-1", "fold-2"]
    assert report["model"]["name"] == "mean of 2 folds"
    assert "no guarantee" in report["conformal"]["note"]
    assert "fold-1, fold-2" in (tmp_path / "both" / "report.html").read_text()


def test_unfinished_folds_are_not_evaluated(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "folds" / "fold-1" / "checkpoint", 0, SPEC)
    (tmp_path / "folds" / "fold-2").mkdir()
    assert "1 finished folds of 2" in wsi_attn("evaluate", tmp_path / "folds", folder / "m.csv", code=3).error()


def test_a_bad_image_is_named_and_the_rest_measured(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    rows = ["path,label,split", f"{folder / '0.png'},red,test", f"{folder / '1.png'},green,test", "bad.png,red,test"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    result = wsi_attn("evaluate", folder / "run", tmp_path / "m.csv", "--json", code=4)
    (found,) = result.json()
    assert found["n"] == 2
    assert "bad.png" in result.error()
    assert "bad.png" in found["unanswered"][0]


def test_sensitivity_needs_its_label(folder: Path) -> None:
    command = ("evaluate", folder / "run", folder / "m.csv")
    assert "--positive" in wsi_attn(*command, "--sensitivity", "0.9", code=2).error()
    assert "green, red" in wsi_attn(*command, "--sensitivity", "0.9", "--positive", "blue", code=2).error()


def test_predict_gives_a_set_of_labels(folder: Path, tmp_path: Path) -> None:
    command = ("predict", folder / "0.png", "--model", folder / "run", "--quiet", "--output")
    (found,) = wsi_attn(*command, tmp_path / "a", "--coverage", "0.9", "--json").json()
    threshold = calibrated_spec().calibration["conformal"]["0.9"]
    members = {label for label, p in found["probabilities"].items() if 1 - p <= threshold}
    assert set(found["prediction_set"]) == members
    assert (found["coverage"], found["unsure"]) == (0.9, len(members) != 1)
    line = wsi_attn(*command, tmp_path / "b", "--coverage", "0.9").stdout.rstrip("\n").split("\t")
    assert line[4:] == ["|".join(found["prediction_set"]) or "-", "unsure" if found["unsure"] else "sure"]
    (plain,) = wsi_attn(*command, tmp_path / "c", "--json").json()
    assert "prediction_set" not in plain
    assert plain["probabilities"] == found["probabilities"]
    assert "coverage" in wsi_attn(*command, tmp_path / "c", "--coverage", "0.9", code=3).error()


def test_a_coverage_that_the_model_cannot_give(folder: Path, tmp_path: Path) -> None:
    command = ("predict", folder / "0.png", "--output", tmp_path / "out", "--model")
    said = wsi_attn(*command, folder / "run", "--coverage", "0.95", code=2).error()
    assert "too few images" in said
    assert "0.8, 0.9" in said
    assert "without --coverage" in wsi_attn(*command, folder / "plain", "--coverage", "0.9", code=2).error()
    assert not (tmp_path / "out").exists()


def test_the_temperature_changes_probabilities_and_no_label(folder: Path, tmp_path: Path) -> None:
    found = {}
    for run in ("run", "plain"):
        (found[run],) = wsi_attn(
            "predict", folder / "1.png", "--model", folder / run, "--output", tmp_path / run, "--json"
        ).json()
    assert found["run"]["label"] == found["plain"]["label"]
    temperature = calibrated_spec().calibration["temperature"]
    assert temperature != 1
    plain = np.array(list(found["plain"]["probabilities"].values()))
    expected = plain ** (1 / temperature) / (plain ** (1 / temperature)).sum()
    np.testing.assert_allclose(list(found["run"]["probabilities"].values()), expected, rtol=1e-9)
