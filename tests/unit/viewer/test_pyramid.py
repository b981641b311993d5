"""Tile geometry: levels cover the slide, tiles cover levels exactly once, passthrough is the slide's own grid."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_attn.geometry import Size
from wsi_attn.slide import Level
from wsi_attn.viewer.pyramid import FAR_APART, SIDE, DeepZoom, TileLevel, same_tiles, tile_levels


def level(size0: Size, factor: float, tile: Size) -> Level:
    return Level(Size(max(1, round(size0.width / factor)), max(1, round(size0.height / factor))), factor, factor, tile)


def covered(at: TileLevel) -> int:
    columns, rows = at.grid
    regions = [at.region(column, row) for row in range(rows) for column in range(columns)]
    assert all(region is not None for region in regions)
    assert at.region(columns, 0) is None
    assert at.region(0, rows) is None
    assert at.region(-1, 0) is None
    return sum(region.width * region.height for region in regions if region)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.lists(st.sampled_from([2.0, 3.7, 4.0, 8.0, 16.0, 60.0]), unique=True, max_size=3),
    st.sampled_from([(7, 9), (240, 240), (256, 256), (512, 1024), (3000, 1)]),
    st.booleans(),
)
def test_levels(width: int, height: int, factors: list[float], tile: tuple[int, int], stored: bool) -> None:
    size0, grid = Size(width, height), Size(*tile)
    levels = tuple(level(size0, factor, grid) for factor in [1.0, *sorted(factors)])
    found = tile_levels(size0, levels, {0: grid} if stored else {})
    assert found[-1].frame.size == size0
    assert max(found[0].frame.size) <= SIDE
    assert [at.native for at in found if at.native is not None] == list(reversed(range(len(levels))))
    factors_found = [at.frame.downsample_x for at in found]
    assert factors_found == sorted(factors_found, reverse=True)
    for coarse, fine in itertools.pairwise(found):
        assert coarse.frame.downsample_x / fine.frame.downsample_x <= FAR_APART
    for at in found:
        assert covered(at) == at.frame.size.width * at.frame.size.height
        assert min(at.tile) >= 64
        assert max(at.tile) <= 2048
    assert found[-1].passthrough == (stored and min(tile) >= 64 and max(tile) <= 2048)
    if found[-1].passthrough:
        assert found[-1].tile == grid


def test_rendered_tiles_hold_whole_stored_tiles() -> None:
    size0 = Size(2220, 2967)
    (*_, finest) = tile_levels(size0, (level(size0, 1.0, Size(240, 240)),), {})
    assert finest.tile == (480, 480)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([240, 256, 512]))
def test_deepzoom(width: int, height: int, side: int) -> None:
    pyramid = DeepZoom(Size(width, height), side)
    top, bottom = pyramid.level(pyramid.highest), pyramid.level(0)
    assert top is not None
    assert bottom is not None
    assert top.frame.size == (width, height)
    assert bottom.frame.size == (1, 1)
    assert pyramid.level(pyramid.highest + 1) is None
    assert pyramid.level(-1) is None
    assert f'Width="{width}" Height="{height}"' in pyramid.descriptor()
    assert f'TileSize="{side}"' in pyramid.descriptor()


@pytest.mark.parametrize(("side", "same"), [(256, 1), (512, None)])
def test_only_equal_grids_are_the_same(side: int, same: int | None) -> None:
    size0 = Size(1000, 800)
    levels = tile_levels(size0, (level(size0, 1.0, Size(256, 256)),), {0: Size(256, 256)})
    pyramid = DeepZoom(size0, side)
    wanted, coarser = pyramid.level(pyramid.highest), pyramid.level(pyramid.highest - 1)
    assert wanted is not None
    assert coarser is not None
    assert same_tiles(wanted, levels) == same
    assert same_tiles(coarser, levels) is None
