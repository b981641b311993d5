"""Frames and tiles: conversions cover what they convert, tiles cover each pixel once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.geometry import Frame, Region, Size, tile_origins

factors = st.floats(0.25, 64, allow_nan=False)
regions = st.builds(
    Region, st.integers(-500, 100_000), st.integers(-500, 100_000), st.integers(1, 5000), st.integers(1, 5000)
)


@given(regions, factors, factors)
def test_there_and_back_covers_the_region_and_little_more(region: Region, x: float, y: float) -> None:
    frame = Frame(Size(1, 1), x, y)
    back = frame.region0_from(*frame.region_from0(region))
    assert back.x <= region.x
    assert back.y <= region.y
    assert back.x1 >= region.x1
    assert back.y1 >= region.y1
    assert back.width <= region.width + 2 * x + 2
    assert back.height <= region.height + 2 * y + 2


@given(st.integers(1, 5000), st.integers(1, 600))
def test_tiles_without_overlap_cover_each_pixel_once(extent: int, tile: int) -> None:
    origins = tile_origins(extent, tile, tile)
    assert origins == list(range(0, extent, tile))


@given(st.integers(1, 5000), st.integers(2, 600), st.data())
def test_tiles_with_overlap_reach_the_end_and_none_is_needless(extent: int, tile: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, tile))
    origins = tile_origins(extent, tile, stride)
    assert origins[-1] + tile >= extent
    assert len(origins) == 1 or origins[-2] + tile < extent


def test_intersection() -> None:
    assert Region(0, 0, 10, 10).intersection(Region(5, 6, 10, 10)) == Region(5, 6, 5, 4)
    assert Region(0, 0, 10, 10).intersection(Region(10, 0, 5, 5)) is None
