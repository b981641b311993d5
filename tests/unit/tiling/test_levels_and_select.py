"""Plans of levels and grids, by law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slides import ArraySlide
from wsi_attn.errors import NotEncodedError
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.slide import Level
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.levels import SMALLEST_SIDE, plan_levels
from wsi_attn.tiling.select import (
    chunk_counts,
    coords0_from,
    grid_origins,
    origins_from0,
    select_tiles,
    touched_chunks,
)
from wsi_attn.tissue.mask import TissueMask


def slide_of(width, height, mpp=None, levels=(1,)):
    return ArraySlide(np.zeros((height, width, 3), np.uint8), levels=levels, mpp=mpp)


def test_native_levels_then_halves():
    plans = plan_levels(slide_of(9000, 5001, levels=(1, 2)), TileConfig())
    assert [(plan.origin, plan.source) for plan in plans] == [
        ("copied", 0),
        ("copied", 1),
        ("halved", 1),
        ("halved", 2),
        ("halved", 3),
    ]
    assert {plan.reason for plan in plans[:2]} == {"an array has no tiles"}
    assert len(plan_levels(slide_of(5000, 3001, levels=(1, 2)), TileConfig())) == 2  # a pyramid that will do
    assert [tuple(plan.level.size) for plan in plans] == [
        (9000, 5001),
        (4500, 2501),
        (2250, 1251),
        (1125, 626),
        (563, 313),
    ]
    assert [plan.level.downsample_x for plan in plans] == [1, 2, 4, 8, 16]
    assert max(plans[-1].level.size) <= SMALLEST_SIDE


def test_resampling_is_per_axis_and_tolerant():
    plans = plan_levels(slide_of(1000, 800, Mpp(0.25, 0.2)), TileConfig(mpp=0.5))
    assert (plans[0].origin, plans[0].level.downsample_x, plans[0].level.downsample_y) == ("resampled", 2.0, 2.5)
    assert tuple(plans[0].level.size) == (500, 320)
    for own in (0.4951, 0.5, 0.5049):
        assert plan_levels(slide_of(1000, 800, Mpp(own, own)), TileConfig(mpp=0.5))[0].origin == "copied"


def test_passthrough_refuses_what_it_cannot_copy():
    slide = slide_of(1000, 800, Mpp(0.25, 0.2))
    with pytest.raises(NotEncodedError, match=r"level 0: an array has no tiles; --codec auto"):
        plan_levels(slide, TileConfig(codec="passthrough"))
    with pytest.raises(NotEncodedError, match=r"no level of the slide has 0\.7"):
        plan_levels(slide, TileConfig(codec="passthrough", mpp=0.7))


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    tile=st.integers(16, 64),
    overlap=st.integers(0, 15),
    factors=st.tuples(st.floats(1, 40), st.floats(1, 40)),
)
def test_grid_covers_and_coordinates_return(width, height, tile, overlap, factors):
    frame = Frame(Size(width, height), *factors)
    origins = grid_origins(frame, tile, overlap)
    assert (origins >= 0).all()
    assert (origins < (width, height)).all()
    assert (origins.max(axis=0) + tile >= (width, height)).all()
    assert len({tuple(origin) for origin in origins.tolist()}) == len(origins)
    np.testing.assert_array_equal(origins_from0(coords0_from(origins, frame), frame), origins)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    chunk=st.tuples(st.integers(5, 90), st.integers(5, 90)),
    tile=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_tiles_touch_the_chunks_that_hold_their_pixels(size, chunk, tile, seed):
    rng = np.random.default_rng(seed)
    level = Level(Size(*size), 1.0, 1.0, Size(*chunk))
    origins = np.stack([rng.integers(0, extent, 4) for extent in size], axis=1)
    rows, columns = chunk_counts(level)
    owner = np.arange(rows * columns).reshape(rows, columns).repeat(chunk[1], axis=0).repeat(chunk[0], axis=1)
    owner = owner[: size[1], : size[0]]
    under = [set(owner[y : y + tile, x : x + tile].ravel().tolist()) for x, y in origins.tolist()]
    touched = touched_chunks(origins, tile, level)
    assert set(np.flatnonzero(touched).tolist()) == set.union(*under)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), min_tissue=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_kept_by_coverage_and_damage_is_kept(seed, min_tissue):
    rng = np.random.default_rng(seed)
    raster, lost = rng.random((6, 7)) > 0.5, rng.random((6, 7)) > 0.8
    frame, level0 = Frame(Size(7, 6), 16.0, 16.0), Frame(Size(112, 96), 1.0, 1.0)
    mask = TissueMask(raster & ~lost, frame, "otsu", "chroma", 20, ~lost, Size(112, 96))
    kept = select_tiles(mask, level0, 16, 0, min_tissue)
    expected = [(x * 16, y * 16) for y in range(6) for x in range(7) if raster[y, x] or lost[y, x] or min_tissue == 0]
    assert [tuple(xy) for xy in kept.tolist()] == expected
