"""`wsi-attn predict` on slides, stores and images: what it writes, and the exhaustive maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.runner import wsi_attn
from wsi_attn.predict.exhaustive import ATTENTION
from wsi_attn.store.predictions import read_prediction

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "demo.zarr"
    wsi_attn("tile", SLIDE, "--output", path)
    return path


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


def test_exhaustive_maps_are_added_to_a_prediction_without_them(tmp_path: Path) -> None:
    file = tmp_path / "cmu1_small_region.prediction.json"
    wsi_attn("predict", SLIDE, "--output", tmp_path)
    assert ATTENTION not in read_prediction(file).maps
    wsi_attn("predict", SLIDE, "--output", tmp_path, "--exhaustive")
    assert ATTENTION in read_prediction(file).maps
    assert "is there already" in wsi_attn("predict", SLIDE, "--output", tmp_path, "--exhaustive").stderr
