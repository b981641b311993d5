"""`wsi-attn predict` on slides, stores and images: what it writes, and the exhaustive maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.runner import in_process, wsi_attn
from wsi_attn.store.predictions import read_prediction
from wsi_attn.tasks.classification.exhaustive import ATTENTION

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "demo.zarr"
    wsi_attn("tile", SLIDE, "--output", path)
    return path


@pytest.mark.slow
def test_slide_and_store_are_answered_alike_and_exhaustively(tmp_path: Path, store: Path) -> None:
    first, second = wsi_attn("predict", SLIDE, store, "--output", tmp_path, "--exhaustive", "--json").json()
    assert first["label"] == second["label"]
    assert first["probabilities"] == pytest.approx(second["probabilities"], abs=0.01)  # the store has coarser levels
    maps = [read_prediction(tmp_path / f"{name}.prediction.json").maps for name in ("cmu1_small_region", "demo")]
    assert list(maps[0]) == list(maps[1])
    tiles = [found[ATTENTION].values for found in maps]
    both = np.isfinite(tiles[0]) & np.isfinite(tiles[1])
    assert both.mean() > 0.3
    np.testing.assert_allclose(tiles[0][both], tiles[1][both], atol=1e-3)  # level 0 is the same


@pytest.mark.slow
def test_exhaustive_maps_are_added_to_a_prediction_without_them(tmp_path: Path) -> None:
    file = tmp_path / "cmu1_small_region.prediction.json"
    wsi_attn("predict", SLIDE, "--output", tmp_path)
    assert ATTENTION not in read_prediction(file).maps
    wsi_attn("predict", SLIDE, "--output", tmp_path, "--exhaustive")
    assert ATTENTION in read_prediction(file).maps
    assert "already complete" in wsi_attn("predict", SLIDE, "--output", tmp_path, "--exhaustive").stderr


def test_without_output_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    slide, _, probability, file = in_process(capsys, "predict", SLIDE).stdout.strip().split("\t")
    assert (slide, file) == (str(SLIDE), "-")
    assert 0 < float(probability) <= 1
    assert not list(tmp_path.iterdir())


def test_heatmap_without_a_record_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (record,) = in_process(capsys, "predict", SLIDE, "--heatmap", "--json").json()
    assert [path.name for path in tmp_path.iterdir()] == [record["heatmap"]] == ["cmu1_small_region.heatmap.png"]
    assert "already complete" in in_process(capsys, "predict", SLIDE, "--heatmap").stderr
    (tmp_path / record["heatmap"]).write_text("mine")
    refused = in_process(capsys, "predict", SLIDE, "--heatmap", code=3)
    assert "--overwrite" in refused.error()
    assert refused.stdout  # the answer itself is not lost
    in_process(capsys, "predict", SLIDE, "--heatmap", "--overwrite")


def test_heatmap_beside_the_record_is_that_of_the_command_heatmap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (drawn,) = in_process(capsys, "predict", SLIDE, "-o", tmp_path, "--heatmap", "--json").json()
    before = Path(drawn["heatmap"]).read_bytes()
    (record,) = in_process(capsys, "heatmap", tmp_path, "--json").json()
    assert record["heatmap"] == drawn["heatmap"]
    assert Path(record["geojson"]).is_file()
    in_process(capsys, "heatmap", tmp_path, "--overwrite")
    assert Path(drawn["heatmap"]).read_bytes() == before
