"""A small Aperio slide through its own reader."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

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
    assert sum(1 for _ in store.path.rglob("*")) < 120
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


def test_a_damaged_tile_is_counted_and_localised(tmp_path):
    """One 240 px tile of the file destroyed: the tiles of the grid over it are lost, and no others."""
    data = bytearray(SVS.read_bytes())
    with tifffile.TiffFile(SVS) as tiff:
        page = tiff.pages.first
        tile = 5 * page.chunked[1] + 4  # columns 960 to 1200, rows 1200 to 1440: in the middle of tissue
        start, length = page.dataoffsets[tile], page.databytecounts[tile]
    data[start : start + length] = bytes(length)
    damaged = tmp_path / "damaged.svs"
    damaged.write_bytes(data)
    with open_slide(damaged) as slide:
        summary = tile_slide(slide, tmp_path / "s.zarr", TileConfig(workers=2))
    with TileStore.open(tmp_path / "s.zarr") as store:
        lost = store.coords()[~store.readable()].tolist()
        assert lost == [[768, 1024], [1024, 1024], [768, 1280], [1024, 1280]]
        assert summary.unreadable_tiles == 4
        assert np.isnan(store.scores()[~store.readable()]).all()
        assert {box.level for box in store.meta.unreadable} == {0, 1, 2}
