"""Components of a thresholded map, and the squares around them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.nn.components import Component, components, crop_around, heaviest, hot_mask

EVERYWHERE = np.ones((6, 7), np.bool_)


def blank() -> np.ndarray:
    return np.full((6, 7), 1e-6)


def cells_of(found: list[Component]) -> list[list[int]]:
    return [component.cells.tolist() for component in found]


def test_two_blobs_are_two_and_a_diagonal_touch_is_one() -> None:
    attention = blank()
    attention[1, 1] = attention[1, 2] = attention[4, 5] = 0.3
    assert cells_of(components(hot_mask(attention, EVERYWHERE, 0.5))) == [[8, 9], [33]]
    attention[2, 3] = attention[3, 4] = 0.3
    assert cells_of(components(hot_mask(attention, EVERYWHERE, 0.5))) == [[8, 9, 17, 25, 33]]


def test_scale_of_the_map_does_not_matter() -> None:
    """A softmax over a hundred thousand cells is a hundred thousand times lower."""
    attention = np.random.default_rng(0).random((6, 7))
    assert np.array_equal(hot_mask(attention, EVERYWHERE, 0.5), hot_mask(attention * 1e-12, EVERYWHERE, 0.5))


def test_constant_map_falls_back_to_one_cell_and_an_empty_one_to_none() -> None:
    valid = EVERYWHERE.copy()
    valid[0] = False
    assert cells_of(components(hot_mask(blank(), valid, 0.5))) == [[7]]
    assert components(hot_mask(blank(), ~EVERYWHERE, 0.5)) == []


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1), st.floats(0.05, 1))
def test_higher_thresholds_never_enlarge_the_mask(seed: int, first: float, second: float) -> None:
    random = np.random.default_rng(seed)
    attention, valid = random.random((6, 7)), random.random((6, 7)) > 0.3
    low, high = sorted((first, second))
    larger, smaller = hot_mask(attention, valid, low), hot_mask(attention, valid, high)
    assert not (smaller & ~larger).any()
    assert not (larger & ~valid).any()
    assert smaller.any() == valid.any()


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_components_equal_those_of_scipy(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((9, 8)) < share
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    found = components(mask)
    assert len(found) == count
    for component, box in zip(found, scipy.ndimage.find_objects(labels), strict=True):
        label = labels.flat[component.cells[0]]
        assert component.cells.tolist() == np.flatnonzero(labels == label).tolist()
        assert (component.top, component.bottom) == (box[0].start, box[0].stop)
        assert (component.left, component.right) == (box[1].start, box[1].stop)


def test_heaviest_by_mass_and_not_by_peak_ties_in_reading_order() -> None:
    attention = blank()
    attention[0, 0] = 0.5
    attention[2, 2:5] = 0.3
    attention[5, 5] = 0.5
    found = components(attention > 0.2)
    assert cells_of(heaviest(found, attention, 2)) == [[16, 17, 18], [0]]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(4, 48), st.integers(4, 40), st.data())
def test_crops_are_square_inside_and_at_least_the_smallest(
    width: int, height: int, cell: int, smallest: int, data: st.DataObject
) -> None:
    rows, columns = -(-height // cell), -(-width // cell)
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    bottom, right = data.draw(st.integers(top + 1, rows)), data.draw(st.integers(left + 1, columns))
    component = Component(np.zeros(1, np.int64), top, bottom, left, right)
    x, y, side = crop_around(component, cell, (width, height), smallest, 16 * smallest)
    assert side >= smallest
    assert x >= 0
    assert y >= 0
    if smallest <= min(width, height):
        assert x + side <= width
        assert y + side <= height
    extents = min(right * cell, width) - left * cell, min(bottom * cell, height) - top * cell
    if max(extents) <= min(width, height, 16 * smallest):  # it fits: nothing of the component is cut off
        assert x <= left * cell
        assert y <= top * cell
        assert x + side >= min(right * cell, width)
        assert y + side >= min(bottom * cell, height)


@pytest.mark.parametrize(("width", "height"), [(320, 256), (333, 241), (97, 410)])
def test_one_hot_cell_gives_a_crop_around_its_centre(width: int, height: int) -> None:
    cell, smallest = 16, 24
    for row in range(-(-height // cell)):
        for column in range(-(-width // cell)):
            component = Component(np.zeros(1, np.int64), row, row + 1, column, column + 1)
            x, y, side = crop_around(component, cell, (width, height), smallest, 999)
            for corner, place, extent in ((x, column, width), (y, row, height)):
                middle = (place * cell + min((place + 1) * cell, extent)) / 2
                wanted = max(side / 2, min(middle, extent - side / 2))
                assert abs(corner + side / 2 - wanted) <= cell / 2
