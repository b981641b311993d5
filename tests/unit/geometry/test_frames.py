"""Frames cover their slide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.geometry import Frame, Mpp, Size


@given(st.integers(1, 200_000), st.integers(1, 200_000), st.floats(0.25, 300), st.floats(0.25, 300))
def test_covering_frame_covers_the_slide_and_needs_all_its_pixels(width: int, height: int, x: float, y: float) -> None:
    frame = Frame.covering(Size(width, height), x, y)
    for extent, factor, count in [(width, x, frame.size.width), (height, y, frame.size.height)]:
        assert count * factor >= extent - 1e-5 * factor
        assert count == 1 or (count - 1) * factor < extent


@given(st.integers(1, 64), st.integers(1, 2000), st.integers(1, 2000))
def test_whole_factors_of_whole_sizes_add_no_pixel(factor: int, columns: int, rows: int) -> None:
    frame = Frame.covering(Size(columns * factor, rows * factor), float(factor), float(factor))
    assert frame.size == (columns, rows)
    assert frame.region0_from(0, 0, columns, rows) == (0, 0, columns * factor, rows * factor)


def test_pixel_size_keeps_both_axes() -> None:
    assert Mpp(0.25, 0.5).scaled(4) == (1.0, 2.0)
