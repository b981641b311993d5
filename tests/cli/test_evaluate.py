"""`evaluate` and `predict --coverage` with calibrated checkpoints, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.calibrated import SPEC, answers_of, calibrated_spec, save_drawn, write_cohort
from tests.cli.runner import wsi_attn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort `m.csv`, and a calibrated run."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_cohort(folder)
    save_drawn(folder / "run", 0, calibrated_spec())
    return folder


def test_the_report_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = ("evaluate", folder / "run", folder / "m.csv", "--report", out)
    lines = wsi_attn(*command, "--sensitivity", "0.8", "--positive", "red").stdout.splitlines()
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html", "predictions.csv"}
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
        assert row["predicted"] == SPEC.labels[int(np.argmax(shares))]
        assert set(row["set:0.9"].split("|")) <= {"", *SPEC.labels}
    assert "set:0.95" not in rows[0]


def test_sensitivity_needs_its_label(folder: Path) -> None:
    command = ("evaluate", folder / "run", folder / "m.csv", "--sensitivity", "0.9")
    assert "--positive" in wsi_attn(*command, code=2).error()


def test_a_bad_image_is_named_and_the_rest_measured(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    rows = ["path,label,split", f"{folder / '0.png'},red,test", f"{folder / '1.png'},green,test", "bad.png,red,test"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    result = wsi_attn("evaluate", folder / "run", tmp_path / "m.csv", "--json", code=4)
    (found,) = result.json()
    assert found["n"] == 2
    assert "bad.png" in result.error()
    assert "bad.png" in found["unanswered"][0]


def test_predict_gives_a_set_of_labels(folder: Path, tmp_path: Path) -> None:
    command = ("predict", folder / "0.png", "--model", folder / "run", "--quiet", "--output")
    (found,) = wsi_attn(*command, tmp_path / "a", "--coverage", "0.9", "--json").json()
    threshold = calibrated_spec().calibration.conformal["0.9"]
    members = {label for label, p in found["probabilities"].items() if 1 - p <= threshold}
    assert set(found["prediction_set"]) == members
    assert (found["coverage"], found["unsure"]) == (0.9, len(members) != 1)
    line = wsi_attn(*command, tmp_path / "a", "--coverage", "0.9").stdout.rstrip("\n").split("\t")
    assert line[4:] == ["|".join(found["prediction_set"]) or "-", "unsure" if found["unsure"] else "sure"]
    assert "coverage" in wsi_attn(*command, tmp_path / "a", code=3).error()


def test_a_coverage_that_the_model_cannot_give(folder: Path, tmp_path: Path) -> None:
    command = ("predict", folder / "0.png", "--output", tmp_path / "out", "--model")
    said = wsi_attn(*command, folder / "run", "--coverage", "0.95", code=2).error()
    assert "too few images" in said
    assert "0.8, 0.9" in said
    assert not (tmp_path / "out").exists()
