"""Colours: known ends, rising brightness, NaN never coloured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_attn.errors import UnknownNameError
from wsi_attn.heatmaps.appearance import COLOURS
from wsi_attn.heatmaps.colour import colourise, lookup_table


def test_viridis_runs_from_dark_purple_to_yellow_in_rgb():
    table = lookup_table("viridis")
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert table[0].tolist() == [68, 1, 84]
    assert table[255].tolist() == [253, 231, 37]


@pytest.mark.parametrize("name", COLOURS)
def test_brightness_rises_all_the_way(name):
    brightness = lookup_table(name) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness[::8]) > 0).all()


def test_an_unknown_map_lists_the_known():
    with pytest.raises(UnknownNameError) as caught:
        lookup_table("jet")
    assert caught.value.name == "jet"
    assert "viridis" in caught.value.known


cells = arrays(np.float32, (4, 5), elements=st.one_of(st.just(np.nan), st.floats(-1, 2, width=32)))


@settings(deadline=None)
@given(cells, st.floats(0, 1))
def test_nan_is_never_coloured_and_all_else_is(values, opacity):
    rgba = colourise(values, np.full(values.shape, opacity, np.float32), "magma")
    assert (rgba[np.isnan(values)] == 0).all()
    assert (rgba[~np.isnan(values), 3] == round(float(np.float32(opacity) * 255))).all()


def test_values_beyond_the_range_get_its_ends():
    rgba = colourise(np.array([[-3, 0, 1, 7]], np.float32), np.ones((1, 4), np.float32), "magma")
    np.testing.assert_array_equal(rgba[0, :, :3], lookup_table("magma")[[0, 0, 255, 255]])
