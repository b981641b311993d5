"""A small cohort: two slides, a prediction of one, a prediction whose slide is gone, polygons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.slides import stained
from wsi_attn.geometry import Frame, Size
from wsi_attn.provenance import fingerprint_of
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction, write_prediction
from wsi_attn.store.records import AttendedRegion

WIDTH, HEIGHT = 700, 500


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str, seed: int = 0) -> Path:
        path = tmp_path / name
        Image.fromarray(stained(WIDTH, HEIGHT, seed)).save(path)
        return path

    return write


@pytest.fixture
def predicted() -> Callable[..., Path]:
    def write(path: Path, slide: str, fingerprint: str = "0" * 64, label: str = "dense") -> Path:
        values = np.linspace(0, 1, 8 * 6, dtype=np.float32).reshape(6, 8)
        values[0, 0] = np.nan
        prediction = SlidePrediction(
            slide=slide,
            size0=Size(WIDTH, HEIGHT),
            label=label,
            probabilities={"dense": 0.7, "sparse": 0.3},
            uncertainty={"entropy": 0.88},
            tissue_fraction=0.4,
            unreadable_tiles=1,
            attention=(AttendedRegion(100, 100, 64, 64, 0.6), AttendedRegion(300, 200, 64, 64, 0.4)),
            model={"name": "test-model", "sha256": "ab" * 32},
            mpp=None,
            seconds=1.5,
            software={"wsi-attn": "0.1.0"},
            attention_map=AttentionMap(Frame(Size(8, 6), 90.0, 90.0), values),
            fingerprint=fingerprint,
        )
        write_prediction(prediction, path)
        return path

    return write


@pytest.fixture
def cohort(tmp_path: Path, image: Callable[..., Path], predicted: Callable[..., Path]) -> Path:
    first = image("first.png", 1)
    image("second.png", 2)
    image("first.heatmap.png", 3)
    (tmp_path / "secret.txt").write_text("nobody may read this")
    predicted(tmp_path / "first.prediction.json", str(first), fingerprint_of(first))
    predicted(tmp_path / "gone.prediction.json", "/nowhere/gone.svs", label="sparse")
    ring = [[50, 50], [150, 50], [150, 120], [50, 50]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": "cell"}},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "Attended", "color": [1, 2, 3]}},
        },
    ]
    (tmp_path / "second.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return tmp_path
