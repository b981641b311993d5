"""Coverage against closed forms and a brute-force definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.geometry import Frame, Size
from wsi_attn.tissue.mask import TissueMask


def mask_of(raster, downsample_x=1.0, downsample_y=1.0, size0=None):
    rows, columns = raster.shape
    frame = Frame(Size(columns, rows), downsample_x, downsample_y)
    size0 = size0 or Size(round(columns * downsample_x), round(rows * downsample_y))
    return TissueMask(raster, frame, "otsu", "chroma", 20, np.ones_like(raster), size0)


def test_halves_and_partial_pixels():
    raster = np.zeros((4, 4), bool)
    raster[:, 2:] = True
    mask = mask_of(raster, 10.0, 10.0)
    regions = np.array([[0, 0, 20, 40], [20, 0, 20, 40], [10, 10, 20, 20], [15, 0, 10, 7], [0, 0, 40, 40]])
    assert mask.coverage(regions).tolist() == [0.0, 1.0, 0.5, 0.5, 0.5]
    assert mask.fraction == 0.5


def test_outside_counts_neither_way():
    mask = mask_of(np.ones((3, 3), bool), 10.0, 10.0, Size(25, 30))
    regions = np.array([[20, 0, 10, 10], [25, 0, 10, 10], [-10, -10, 10, 10], [-5, 25, 10, 10]])
    assert mask.coverage(regions).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert mask.fraction == 1.0


def test_no_regions():
    coverage = mask_of(np.ones((2, 2), bool)).coverage(np.empty((0, 4), np.int64))
    assert coverage.shape == (0,)
    assert coverage.dtype == np.float32


def test_fraction_is_weighted_by_slide_area():
    raster = np.array([[False, True]])  # the second column reaches 1 px into a slide of 5
    assert mask_of(raster, 4.0, 4.0, Size(5, 4)).fraction == np.float32(0.2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    factor=st.integers(1, 5),
    region=st.tuples(st.integers(-10, 30), st.integers(-10, 30), st.integers(1, 30), st.integers(1, 30)),
)
def test_equals_counting_level0_pixels(seed, rows, columns, factor, region):
    raster = np.random.default_rng(seed).random((rows, columns)) > 0.5
    full = np.kron(raster, np.ones((factor, factor), bool))
    x, y, width, height = region
    inside = full[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    expected = inside.mean() if inside.size else 0.0
    got = mask_of(raster, float(factor), float(factor)).coverage(np.array([region]))
    np.testing.assert_allclose(got, [expected], atol=1e-6)
