"""Pixel sizes that contradict the objective, and those that count as missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.cli.runner import in_process
from tests.tiff_files import write_svs

EXPECTED = "0.025 x 0.025 µm/px at an objective of 20x, where about 0.5 µm/px is expected"


@pytest.fixture
def pixels(demo_slide: Path) -> np.ndarray:
    with openslide.OpenSlide(demo_slide) as slide:
        return np.array(slide.read_region((700, 900), 0, (768, 768)).convert("RGB"))


def test_a_contradiction_is_a_warning_and_stops_models_that_need_the_pixel_size(
    pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_svs(tmp_path / "odd.svs", [pixels], facts="AppMag = 20|MPP = 0.025")
    result = in_process(capsys, "info", slide, "--json")
    assert EXPECTED in result.stderr
    assert EXPECTED in result.json()[0]["mpp_note"]
    store = tmp_path / "odd.zarr"
    assert EXPECTED in in_process(capsys, "tile", slide, "-o", store).stderr
    for source in (slide, store):
        error = in_process(capsys, "predict", source, "-o", tmp_path / "out", code=3).error()
        assert EXPECTED in error
        assert "--slide-mpp" in error
    result = in_process(capsys, "predict", slide, "-o", tmp_path, "--slide-mpp", "0.5", "--allow-out-of-distribution")
    assert EXPECTED not in result.stderr


@pytest.mark.parametrize(
    ("facts", "mpp"),
    [
        ("AppMag = 20|MPP = 0.25", 0.25),  # a factor of 2 is a scanner's own affair
        ("AppMag = 40|MPP = 0.5", 0.5),
        ("MPP = 0.025", 0.025),  # nothing to contradict
        ("AppMag = 20|MPP = 0", None),
        ("AppMag = 20|MPP = -0.5", None),
        ("AppMag = 20|MPP = nan", None),
        ("AppMag = 20|MPP = inf", None),
        ("AppMag = 20", None),
    ],
)
def test_what_is_believed_and_what_counts_as_missing(
    facts: str, mpp: float | None, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_svs(tmp_path / "a.svs", [pixels[:256, :256]], facts=facts)
    result = in_process(capsys, "info", slide, "--json")
    assert result.json()[0]["mpp"] == (mpp if mpp is None else [mpp, mpp])
    assert "warning" not in result.stderr
