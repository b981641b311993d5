"""Outlines against counted pixels, and the way back."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_attn.annotations.polygons import Polygon, fill_polygons, rings_of, simplified, trace_polygons
from wsi_attn.geometry import Frame, Size


@st.composite
def masks(draw):
    """A frame over a slide, factors unequal and not whole, the last pixels cut off; and a mask in it."""
    factors = draw(st.tuples(st.floats(1, 40), st.floats(1, 40)))
    size0 = Size(draw(st.integers(1, 200)), draw(st.integers(1, 200)))
    frame = Frame.covering(size0, *factors)
    if frame.size.width * frame.size.height > 400:
        frame = Frame.covering(size0, size0.width / 12.3, size0.height / 11.1)
    return draw(arrays(np.bool_, (frame.size.height, frame.size.width))), frame, size0


def area_of(mask, frame, size0):
    """Level-0 pixels squared that the mask covers inside the slide."""
    widths = np.diff(np.minimum(np.arange(frame.size.width + 1) * frame.downsample_x, size0.width))
    heights = np.diff(np.minimum(np.arange(frame.size.height + 1) * frame.downsample_y, size0.height))
    return float((mask * heights[:, None] * widths).sum())


@settings(max_examples=200, deadline=None)
@given(masks())
def test_outlines_lose_nothing(case):
    mask, frame, size0 = case
    polygons = trace_polygons(mask, frame, size0)
    np.testing.assert_array_equal(fill_polygons(polygons, frame, size0), mask)
    np.testing.assert_allclose(sum(polygon.area for polygon in polygons), area_of(mask, frame, size0), rtol=1e-9)
    for polygon in polygons:
        assert polygon.is_valid
        assert polygon.exterior.is_ccw
        assert not any(hole.is_ccw for hole in polygon.interiors)
        for ring in rings_of(polygon):
            assert len({tuple(corner) for corner in ring}) == len(ring) >= 4  # simple: no corner twice
            assert (ring >= 0).all()
            assert (ring <= size0).all()
            along = np.roll(ring, -1, axis=0) - ring
            assert ((along == 0).sum(axis=1) == 1).all()  # along one axis each


def unit(mask):
    rows, columns = mask.shape
    return trace_polygons(mask, Frame(Size(columns, rows), 1.0, 1.0), Size(columns, rows))


def test_one_pixel_is_its_four_edges():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (polygon,) = unit(mask)
    assert {tuple(corner) for corner in polygon.exterior.coords} == {(2, 1), (3, 1), (3, 2), (2, 2)}
    assert not polygon.interiors


def test_pixels_that_touch_at_a_corner_are_two_pieces_and_such_holes_two_holes():
    mask = np.eye(2, dtype=bool)
    assert [polygon.area for polygon in unit(mask)] == [1.0, 1.0]
    (polygon,) = unit(np.pad(~mask, 1, constant_values=True))
    assert (len(polygon.interiors), polygon.area) == (2, 14.0)


def test_a_hole_that_opens_at_a_corner_is_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    (polygon,) = unit(mask)
    assert (len(rings_of(polygon)[0]), len(polygon.interiors), polygon.area) == (6, 1, 7.0)


def test_an_island_in_a_hole_is_a_piece_of_its_own():
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    outer, island = unit(mask)
    assert (outer.area, len(outer.interiors), island.area) == (24.0, 1, 1.0)


def test_nothing_has_no_outline():
    assert unit(np.zeros((4, 5), bool)) == []
    assert not fill_polygons([], Frame(Size(5, 4), 1.0, 1.0), Size(5, 4)).any()


def test_polygons_off_the_slide_and_larger_than_it():
    frame, size0 = Frame(Size(5, 4), 2.0, 2.0), Size(9, 8)
    outside = Polygon(np.array([(20, 20), (30, 20), (30, 30.0)]))
    around = Polygon(np.array([(-50, -50), (90, -50), (90, 90), (-50, 90.0)]))
    assert not fill_polygons([outside], frame, size0).any()
    assert fill_polygons([around], frame, size0).all()
    assert fill_polygons([around, around], frame, size0).all()  # they add up


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), tolerance=st.floats(0.1, 20))
@example(seed=1598, tolerance=7.0)  # the first corner of a ring goes
def test_simplified_outlines_stay_within_the_tolerance(seed, tolerance):
    rng = np.random.default_rng(seed)
    coarse = rng.random((4, 5)) > 0.4
    mask = np.kron(coarse, np.ones((5, 5), bool)) ^ (rng.random((20, 25)) > 0.97)
    frame, size0 = Frame(Size(25, 20), 7.0, 7.0), Size(175, 140)
    for polygon in trace_polygons(mask, frame, size0):
        fewer = simplified(polygon, tolerance)
        assert fewer.is_valid
        for before, after in zip(rings_of(polygon), rings_of(fewer), strict=True):
            assert len(after) <= len(before)
            assert max(distance(corner, after) for corner in before) <= tolerance + 1e-3


def distance(point, ring):
    """From a point to the nearest edge of a ring."""
    start, along = ring, np.roll(ring, -1, axis=0) - ring
    share = ((point - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
    nearest = start + np.clip(share, 0, 1)[:, None] * along
    return np.hypot(*(point - nearest).T).min()
