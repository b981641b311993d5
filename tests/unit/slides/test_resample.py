"""Resampling: equal to its definition at any offset and scale, and without seams between blocks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slides import ArraySlide
from wsi_attn.geometry import Region
from wsi_attn.slides import view
from wsi_attn.slides.open import open_slide
from wsi_attn.slides.resample import resample_area
from wsi_attn.slides.view import best_level, read_region_at, read_view


def plain_mean(pixels: np.ndarray, x: float, y: float, sx: float, sy: float) -> np.ndarray:
    """Mean over one cell, each pixel weighted by the area it shares."""
    total, weight = np.zeros(3), 0.0
    for row in range(max(0, math.floor(y)), min(pixels.shape[0], math.ceil(y + sy))):
        for column in range(max(0, math.floor(x)), min(pixels.shape[1], math.ceil(x + sx))):
            height = min(row + 1, y + sy) - max(row, y)
            width = min(column + 1, x + sx) - max(column, x)
            total += pixels[row, column] * height * width
            weight += height * width
    return total / weight


@given(st.floats(0, 6), st.floats(0, 6), st.floats(1, 7), st.floats(1, 7), st.integers(1, 5), st.integers(1, 5))
def test_equals_its_definition(x: float, y: float, sx: float, sy: float, width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (44, 44, 3), dtype=np.uint8)
    found = resample_area(pixels, (x, y), (sx, sy), (width, height))
    for row in range(height):
        for column in range(width):
            wanted = plain_mean(pixels, x + column * sx, y + row * sy, sx, sy)
            assert found[row, column] == pytest.approx(wanted, abs=0.51)


def test_fast_path_equals_the_general_one() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    fast = resample_area(pixels, (8, 4), (4.0, 2.0), (20, 30)).astype(int)
    general = resample_area(pixels, (8 + 1e-9, 4), (4.0, 2.0), (20, 30)).astype(int)
    assert np.abs(fast - general).max() <= 1


@pytest.mark.parametrize("scale", [(0.5, 0.5), (1.0, 1.0), (2.7, 3.1)])
def test_constant_stays_constant(scale: tuple[float, float]) -> None:
    pixels = np.full((40, 40, 3), 93, np.uint8)
    assert (resample_area(pixels, (0.3, 0.7), scale, (9, 9)) == 93).all()


def test_blocks_leave_no_seam(demo_slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(demo_slide) as slide:
        whole = read_view(slide, 5.3, 6.1)
        monkeypatch.setattr(view, "BLOCK", 300)
        parts = read_view(slide, 5.3, 6.1)
    assert np.abs(whole.pixels.astype(int) - parts.pixels.astype(int)).max() <= 1


def test_smallest_sufficient_level_is_read() -> None:
    slide = ArraySlide(np.zeros((640, 640, 3), np.uint8), levels=(1.0, 2.0, 8.0))
    assert [best_level(slide, factor, factor) for factor in (0.5, 1, 1.9, 2, 7.9, 8, 100)] == [0, 0, 0, 1, 1, 2, 2]


def test_region_at_native_pixels_is_untouched(demo_slide: Path) -> None:
    with open_slide(demo_slide) as slide:
        wanted = slide.read_region((333, 444), 0, (77, 66))
        assert np.array_equal(read_region_at(slide, (333, 444), 1, 1, (77, 66)), wanted)


def test_unreadable_region_is_masked_to_its_place() -> None:
    array = np.full((1024, 1024, 3), 100, np.uint8)
    slide = ArraySlide(array, broken_regions=[(0, Region(512, 256, 10, 10))])
    found = read_view(slide, 4, 4)
    assert not found.readable[64:66, 128:130].any()
    assert found.readable.mean() > 0.98
    assert (found.pixels[found.readable] == 100).all()
