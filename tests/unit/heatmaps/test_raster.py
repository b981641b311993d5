"""Ranks, and rasters that stay where they belong on level 0."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_attn.geometry import Frame, Size
from wsi_attn.heatmaps.raster import attention_rank, attention_share, resample

values = arrays(np.float32, (5, 6), elements=st.one_of(st.just(np.nan), st.floats(0, 1, width=32)))


def test_ranks_by_hand():
    ranks = attention_rank(np.array([[0.1, np.nan, 0.7], [0.1, 0.2, 0.0]], np.float32))
    np.testing.assert_allclose(ranks, [[0.375, np.nan, 1.0], [0.375, 0.75, 0.0]])
    assert ranks.dtype == np.float32


def test_ranks_of_nothing_one_and_equals():
    assert np.isnan(attention_rank(np.full((2, 2), np.nan, np.float32))).all()
    assert attention_rank(np.array([[np.nan, 0.3]], np.float32))[0, 1] == 0.5
    np.testing.assert_array_equal(attention_rank(np.full((3, 3), 0.1, np.float32)), 0.5)


@settings(deadline=None)
@given(values)
def test_rank_is_monotone_and_keeps_nan(cells):
    ranks = attention_rank(cells)
    np.testing.assert_array_equal(np.isnan(ranks), np.isnan(cells))
    x, r = cells[~np.isnan(cells)], ranks[~np.isnan(cells)]
    assert ((x[:, None] < x) == (r[:, None] < r)).all()
    assert ((r >= 0) & (r <= 1)).all()
    if x.size:
        assert r.mean() == pytest.approx(0.5)


@settings(deadline=None)
@given(values, st.integers(1, 20))
def test_rank_is_the_same_after_a_monotone_transform(cells, power):
    # steps that single precision keeps apart, so that the transform is strictly monotone on them
    coarse = np.round(cells * 50) / 50
    np.testing.assert_array_equal(attention_rank(coarse), attention_rank(np.exp(coarse * power).astype(np.float32)))


def test_share_names_what_became_one():
    share, largest = attention_share(np.array([[0.2, np.nan, 0.05]], np.float32))
    np.testing.assert_allclose(share, [[1, np.nan, 0.25]])
    assert largest == pytest.approx(0.2)
    assert attention_share(np.full((1, 1), np.nan, np.float32))[1] == 0
    assert attention_share(np.array([[0, np.nan]], np.float32))[0][0, 0] == 0


frames = st.builds(
    Frame, st.builds(Size, st.integers(1, 40), st.integers(1, 40)), st.floats(10, 300), st.floats(10, 300)
)


@settings(deadline=None)
@given(values, frames)
def test_resampling_bleeds_neither_into_nor_out_of_nan(cells, target):
    source = Frame(Size(6, 5), 100.0, 90.0)
    found = resample(cells, source, target)
    assert found.shape == (target.size.height, target.size.width)
    for row in range(target.size.height):
        for column in range(target.size.width):
            i = int((row + 0.5) * target.downsample_y / 90.0)
            j = int((column + 0.5) * target.downsample_x / 100.0)
            shown = i < 5 and j < 6 and not np.isnan(cells[i, j])
            assert np.isnan(found[row, column]) != shown
    if (~np.isnan(found)).any():
        assert np.nanmin(found) >= np.nanmin(cells) - 1e-5
        assert np.nanmax(found) <= np.nanmax(cells) + 1e-5


@settings(deadline=None)
@given(values)
def test_the_same_frame_changes_nothing(cells):
    frame = Frame(Size(6, 5), 64.0, 32.0)
    np.testing.assert_allclose(resample(cells, frame, frame), cells, atol=1e-6)


@settings(deadline=None)
@given(values, st.floats(0.0078125, 1, width=32))
def test_a_constant_stays_constant_beside_nan(cells, constant):
    assume(not np.isnan(cells).all())
    flat = np.where(np.isnan(cells), np.nan, np.float32(constant)).astype(np.float32)
    found = resample(flat, Frame(Size(6, 5), 100, 100), Frame(Size(50, 41), 12.1, 13.0))
    np.testing.assert_allclose(found[~np.isnan(found)], constant, rtol=1e-5)


def test_bilinear_between_two_cells():
    found = resample(np.array([[0, 1]], np.float32), Frame(Size(2, 1), 8, 8), Frame(Size(8, 1), 2, 8))
    np.testing.assert_allclose(found, [[0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 4_000),
    st.integers(0, 3_000),
    st.floats(12, 90),
    st.floats(12, 90),
    st.floats(128, 700),
    st.floats(128, 700),
)
def test_a_mark_on_level_0_is_drawn_where_it_is(x0, y0, pixel_x, pixel_y, cell_x, cell_y):
    """Unequal, fractional factors along the axes: the brightest pixels lie in the marked cell, about its middle."""
    size0 = Size(4_001, 3_001)
    source, target = Frame.covering(size0, cell_x, cell_y), Frame.covering(size0, pixel_x, pixel_y)
    cells = np.zeros((source.size.height, source.size.width), np.float32)
    row, column = int(y0 / cell_y), int(x0 / cell_x)
    cells[row, column] = 1
    found = resample(cells, source, target)
    rows, columns = np.nonzero(found == np.nanmax(found))
    assert set(((rows + 0.5) * pixel_y // cell_y).tolist()) == {row}
    assert set(((columns + 0.5) * pixel_x // cell_x).tolist()) == {column}
    middle = int((row + 0.5) * cell_y / pixel_y), int((column + 0.5) * cell_x / pixel_x)
    if middle[0] < found.shape[0] and middle[1] < found.shape[1]:
        assert found[middle] == pytest.approx(np.nanmax(found), abs=1e-5 + pixel_x / cell_x + pixel_y / cell_y)
