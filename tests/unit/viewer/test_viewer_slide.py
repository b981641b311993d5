"""Tiles of a real store: stored ones go out as they are, damaged and absent ones are rendered."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import wsi_attn
from tests.conftest import DATA
from wsi_attn.data.sources import open_source
from wsi_attn.errors import SlideReadError
from wsi_attn.lru import LruCache
from wsi_attn.viewer.viewer_slide import ViewerSlide

DEMO = DATA / "cmu1_small_region.svs"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "demo.zarr"
    wsi_attn("tile", DEMO, "--output", path, "--codec", "passthrough", "--quiet")
    return path


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(params=["slide", "store"])
def viewed(request: pytest.FixtureRequest, store: Path) -> ViewerSlide:
    return ViewerSlide(DEMO if request.param == "slide" else store, LruCache(1 << 20))


def test_passthrough_tiles_are_the_slides_pixels(viewed: ViewerSlide) -> None:
    finest = len(viewed.levels) - 1
    assert viewed.levels[finest].passthrough
    with open_source(DEMO) as slide:
        for column, row in [(3, 3), (9, 12)]:
            tile = viewed.tile(viewed.levels[finest], column, row)
            inside = min(240, 2220 - column * 240), min(240, 2967 - row * 240)
            expected = slide.read_region((column * 240, row * 240), 0, inside)
            np.testing.assert_array_equal(pixels_of(tile.data)[: inside[1], : inside[0]], expected)


def test_deepzoom_hands_out_the_same_bytes_inside_and_cuts_the_edge(viewed: ViewerSlide) -> None:
    finest, highest = len(viewed.levels) - 1, viewed.deepzoom.highest
    assert viewed.deepzoom_level(highest, 3, 3) is viewed.level(finest, 3, 3)
    edge = viewed.deepzoom_level(highest, 9, 12)
    assert edge is not None
    assert viewed.stored_tile(edge, 9, 12) is None
    assert pixels_of(viewed.tile(edge, 9, 12).data).shape == (2967 - 12 * 240, 2220 - 9 * 240, 3)


def test_there_are_no_tiles_beyond_the_edges(viewed: ViewerSlide) -> None:
    finest, highest = len(viewed.levels) - 1, viewed.deepzoom.highest
    assert viewed.level(finest, 10, 0) is None
    assert viewed.level(finest + 1, 0, 0) is None
    assert viewed.deepzoom_level(highest, 0, 13) is None
    assert viewed.deepzoom_level(highest + 1, 0, 0) is None


def test_coarse_levels_show_the_whole_slide(viewed: ViewerSlide) -> None:
    tile = viewed.tile(viewed.levels[0], 0, 0)
    with open_source(DEMO) as slide:
        whole = slide.read_region((0, 0), 0, (2216, 2960)).reshape(370, 8, 277, 8, 3).mean(axis=(1, 3))
    assert np.abs(pixels_of(tile.data)[:370, :277] - whole).mean() < 5


def test_what_cannot_be_read_is_hatched(viewed: ViewerSlide, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SlideReadError("damaged")

    finest = len(viewed.levels) - 1
    monkeypatch.setattr(viewed._stored[0][0], "read", fail)
    monkeypatch.setattr(viewed.slide, "read_region", fail)
    tile = viewed.tile(viewed.levels[finest], 3, 3)
    assert not tile.whole
    assert pixels_of(tile.data).std() > 5


def test_tissue_of_slide_and_store_agree(store: Path) -> None:
    first, second = (ViewerSlide(path, LruCache(0)).tissue() for path in (DEMO, store))
    assert first.frame == second.frame
    np.testing.assert_array_equal(first.mask, second.mask)
