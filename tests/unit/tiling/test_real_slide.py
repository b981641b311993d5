"""A small Aperio slide through its own reader."""

from pathlib import Path

import numpy as np
import pytest

from wsi_attn.geometry import Region
from wsi_attn.slides.open import open_slide
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.write import TileConfig, tile_slide

SVS = Path(__file__).parents[2] / "data" / "cmu1_small_region.svs"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "cmu1.zarr"
    with open_slide(SVS) as slide:
        summary = tile_slide(slide, path, TileConfig())
    assert summary.tiles > 0
    assert summary.unreadable_tiles == 0
    with TileStore.open(path) as store:
        yield store


def test_pixels_are_the_slides(store):
    with open_slide(SVS) as slide:
        width, height = slide.info.size0
        np.testing.assert_array_equal(
            store.read_region((0, 0), 0, (width, height)), slide.read_region((0, 0), 0, (width, height))
        )
        assert store.info.mpp == slide.info.mpp
        assert store.info.icc_profile == slide.info.icc_profile


def test_few_files_and_sensible_tissue(store):
    assert sum(1 for _ in store.path.rglob("*")) < 60
    mask, _ = store.tissue()
    assert 0.2 < mask.mean() < 0.9
    assert (store.scores() >= 0).all()
    assert np.corrcoef(store.scores(), [coverage(mask, xy) for xy in store.coords().tolist()])[0, 1] > 0.9


def coverage(mask, xy):
    """Share of a tile by plain indexing of the mask."""
    factor = 2220 / mask.shape[1]
    x, y = (int(value / factor) for value in xy)
    side = int(256 / factor)
    return mask[y : y + side, x : x + side].mean()


def test_last_level_is_small(store):
    last = store.info.levels[-1]
    assert max(last.size) <= 1024
    assert store.read_level(len(store.info.levels) - 1, Region(0, 0, *last.size)).std() > 10
