"""Blended scores of tiles equal the slow definition: the mean over tiles, weighted by the area shared with a pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.geometry import Frame, Region, Size
from wsi_attn.heatmaps import blend
from wsi_attn.heatmaps.blend import LEAST_SHARE, blend_bands, blend_tiles, tile_frame
from wsi_attn.heatmaps.raster import halve, resample


def by_definition(coords, extent, values, frame):
    """One pixel after the other, one tile after the other."""
    raster = np.full((frame.size.height, frame.size.width), np.nan)
    for row, column in np.ndindex(raster.shape):
        x, y = column * frame.downsample_x, row * frame.downsample_y
        total = weight = 0.0
        for (left, top), value in zip(coords, values, strict=True):
            width = min(left + extent[0], x + frame.downsample_x) - max(left, x)
            height = min(top + extent[1], y + frame.downsample_y) - max(top, y)
            if width > 0 and height > 0 and not np.isnan(value):
                total += width * height * float(value)
                weight += width * height
        if weight > LEAST_SHARE * frame.downsample_x * frame.downsample_y:
            raster[row, column] = total / weight
    return raster


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 30),
    extent=st.tuples(st.floats(1, 60), st.floats(1, 60)),
    factors=st.tuples(st.floats(1, 40), st.floats(1, 40)),
)
def test_equals_the_definition(seed, count, extent, factors):
    rng = np.random.default_rng(seed)
    coords = rng.integers(-20, 200, (count, 2))
    values = rng.random(count, dtype=np.float32)
    values[rng.random(count) < 0.2] = np.nan
    frame = Frame.covering(Size(190, 170), *factors)
    np.testing.assert_allclose(
        blend_tiles(coords, extent, values, frame), by_definition(coords, extent, values, frame), atol=1e-5
    )


def test_bands_equal_the_whole_and_order_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    coords, values = rng.integers(0, 900, (50, 2)), rng.random(50, dtype=np.float32)
    frame = Frame.covering(Size(1000, 1000), 7.3, 5.1)
    whole = blend_tiles(coords, (100.0, 90.0), values, frame)
    monkeypatch.setattr(blend, "BAND", 16)
    bands = list(blend_bands(coords, (100.0, 90.0), values, frame))
    assert [row for row, _ in bands] == list(range(0, frame.size.height, 16))
    np.testing.assert_allclose(np.concatenate([band for _, band in bands]), whole, atol=1e-6)
    order = rng.permutation(50)
    np.testing.assert_allclose(blend_tiles(coords[order], (100.0, 90.0), values[order], frame), whole, atol=1e-6)


@pytest.mark.parametrize(("tile", "overlap"), [(256, 0), (256, 64), (256, 128), (224, 32), (100, 37)])
def test_a_grid_keeps_its_values_where_one_tile_lies_alone(tile, overlap):
    stride = tile - overlap
    size0 = Size(4 * stride + overlap, 3 * stride + overlap)
    coords = np.array([(x * stride, y * stride) for y in range(3) for x in range(4)])
    values = np.arange(12, dtype=np.float32)
    frame = tile_frame(size0, (tile, tile), (stride, stride))
    raster = blend_tiles(coords, (tile, tile), values, frame)
    assert not np.isnan(raster).any()
    for (x, y), value in zip(coords, values, strict=True):
        inner = Region(x + overlap, y + overlap, tile - 2 * overlap, tile - 2 * overlap)
        if inner.width < frame.downsample_x * 2:
            continue
        row, column = int((y + tile / 2) / frame.downsample_y), int((x + tile / 2) / frame.downsample_x)
        assert raster[row, column] == pytest.approx(value)


def test_rasters_are_bounded_whatever_the_slide():
    frame = tile_frame(Size(2_000_000, 1_000_000), (256.0, 256.0), (224.0, 224.0))
    assert max(frame.size) <= blend.LARGEST_SIDE + 1


def test_no_tile_and_no_number_give_nan():
    frame = Frame.covering(Size(100, 100), 10, 10)
    assert np.isnan(blend_tiles(np.empty((0, 2), np.int64), (10.0, 10.0), np.empty(0, np.float32), frame)).all()
    one = np.array([[0, 0]])
    assert np.isnan(blend_tiles(one, (10.0, 10.0), np.array([np.nan], np.float32), frame)).all()


@pytest.mark.parametrize("downsample", [0.7, 3.3, 33.0, 250.0])
def test_parts_of_a_raster_equal_the_whole(downsample):
    rng = np.random.default_rng(1)
    values = rng.random((30, 40), dtype=np.float32)
    values[5:9, 3:9] = np.nan
    source, target = Frame(Size(40, 30), 32.5, 30.1), Frame.covering(Size(320, 310), downsample, downsample)
    whole = resample(values, source, target)
    side = 7
    for y in range(0, target.size.height, side):
        for x in range(0, target.size.width, side):
            region = Region(x, y, side, side).intersection(Region(0, 0, *target.size))
            part = resample(values, source, target, region)
            np.testing.assert_allclose(part, whole[y : y + side, x : x + side], atol=1e-6)


def test_halving_takes_means_of_what_there_is():
    values = np.array([[1, 3, np.nan], [5, 7, np.nan], [np.nan, 2, 9]], np.float32)
    np.testing.assert_array_equal(halve(values), np.array([[4, np.nan], [2, 9]], np.float32))
