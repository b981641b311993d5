"""Views and resampling where it gets narrow: edges, gaps, blocks, slides that cannot be read at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slides import ArraySlide, stained
from wsi_attn.geometry import Region
from wsi_attn.slides import view
from wsi_attn.slides.resample import resample_area
from wsi_attn.slides.view import read_region_at, read_view


@pytest.mark.parametrize(("offset", "wanted"), [((2.0, 50.0), 7), ((2.0, -9.5), 3), ((50.0, 2.0), 9), ((-9.5, 2.0), 8)])
def test_cells_wholly_outside_take_the_edge(offset: tuple[float, float], wanted: int) -> None:
    pixels = np.full((12, 10, 3), 5, np.uint8)
    pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1] = 3, 7, 8, 9
    assert (resample_area(pixels, offset, (1.5, 1.5), (2, 2)) == wanted).all()


def test_cells_across_the_edge_average_what_lies_inside() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, axis=2) * 10
    found = resample_area(pixels, (2.0, 2.0), (4.0, 4.0), (1, 1))
    assert found[0, 0, 0] == pixels[2:, 2:, 0].mean()


@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0))
def test_interpolation_keeps_a_constant_and_the_range(x: float, y: float) -> None:
    assert (resample_area(np.full((20, 20, 3), 93, np.uint8), (1.2, 2.3), (x, y), (9, 9)) == 93).all()


@settings(max_examples=12)
@given(st.integers(50, 250), st.integers(50, 250), st.floats(1, 9), st.floats(1, 9), st.sampled_from([40, 64, 100]))
def test_blocks_of_any_side_give_one_view(width: int, height: int, x: float, y: float, side: int) -> None:
    slide = ArraySlide(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    whole = read_view(slide, x, y, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "BLOCK", side)
        parts = read_view(slide, x, y, workers=1)
    assert np.abs(whole.pixels.astype(int) - parts.pixels).max() <= 1
    assert parts.frame == whole.frame
    assert parts.readable.all()


def test_threads_build_the_view_that_one_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "BLOCK", 64)
    slide = ArraySlide(stained(300, 200), levels=(1.0, 2.0))
    told: list[tuple[int, int]] = []
    one = read_view(slide, 3.3, 3.3, workers=1)
    four = read_view(slide, 3.3, 3.3, workers=4, progress=lambda done, total, what: told.append((done, total)))
    assert np.array_equal(one.pixels, four.pixels)
    assert told == [(step, len(told)) for step in range(1, len(told) + 1)]


def test_coarser_view_from_a_level_equals_that_from_level_0() -> None:
    smooth = np.kron(stained(64, 48), np.ones((4, 4, 1), np.uint8))
    slide = ArraySlide(smooth, levels=(1.0, 2.0, 4.0))
    assert np.abs(read_view(slide, 8, 8).pixels.astype(int) - read_view(ArraySlide(smooth), 8, 8).pixels).max() <= 1


def test_outside_the_slide_is_background_at_every_resolution() -> None:
    slide = ArraySlide(np.zeros((100, 100, 3), np.uint8))
    for factor in (1.0, 2.0, 3.7):
        assert (read_region_at(slide, (500, 500), factor, factor, (10, 10)) == 255).all()
        found = read_region_at(slide, (-10 * factor, 0), factor, factor, (20, 5))
        assert (found[:, :10] == 255).all()
        assert (found[:, 11:] == 0).all()


def test_slide_without_a_readable_pixel() -> None:
    slide = ArraySlide(np.zeros((200, 300, 3), np.uint8), broken_regions=[(0, Region(0, 0, 300, 200))])
    found = read_view(slide, 4, 4)
    assert not found.readable.any()
    covered = np.zeros((200, 300), np.bool_)
    for region in found.unreadable:
        covered[region.y : region.y1, region.x : region.x1] = True
    assert covered.all()
    assert (found.pixels == 255).all()


def test_what_is_masked_is_what_is_reported() -> None:
    slide = ArraySlide(
        np.full((512, 768, 3), 90, np.uint8),
        broken_regions=[(0, Region(700, 500, 5, 5)), (0, Region(70, 130, 60, 60))],
    )
    found = read_view(slide, 4, 4)
    marked = np.zeros_like(found.readable)
    for region in found.unreadable:
        inside = found.frame.region_from0(region)
        marked[inside.y : inside.y1, inside.x : inside.x1] = True
    assert np.array_equal(marked, ~found.readable)
    assert not found.readable[126, 176]
    assert not found.readable[33:47, 18:32].any()
