"""What weighs the places of a slide before the network sees them, and the cache of blocks."""

import numpy as np
import pytest

from tests.slides import ArraySlide, stained
from wsi_attn.data.bags import LEAST_PRIOR, collate, make_bag
from wsi_attn.data.blocks import BLOCK, CachedSlide
from wsi_attn.data.prior import score_weights, tile_weights
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import SlideReadError, UnknownNameError
from wsi_attn.geometry import Region
from wsi_attn.lru import LruCache
from wsi_attn.slides.open import open_slide
from wsi_attn.store.tile_store import TileStore
from wsi_attn.tiling.config import TileConfig
from wsi_attn.tiling.write import tile_slide


def test_weights_are_the_formula():
    scores = {
        "tissue": [1.0, 0.5, 1.0, 1.0, 0.0],
        "pen": [0.0, 0.0, 0.75, 0.0, 0.0],
        "fold": [0.0, 0.0, 0.0, 0.5, 0.0],
        "focus": [300.0, 100.0, 100.0, 0.0, 900.0],
    }
    found = tile_weights({name: np.array(values, np.float32) for name, values in scores.items()})
    assert found * 0.75 == pytest.approx([0.75, 0.25, 0.125, 0.0, 0.0])  # the median focus of tissue is 100
    assert tile_weights({"tissue": np.array([0.5, 0.25], np.float32)}).tolist() == [1.0, 0.5]
    unread = tile_weights({"tissue": np.array([np.nan, 1.0], np.float32)})
    assert unread.tolist() == [0.0, 1.0]
    assert tile_weights({"tissue": np.zeros(3, np.float32)}).tolist() == [0, 0, 0]
    with pytest.raises(UnknownNameError):
        tile_weights({"pen": np.zeros(3, np.float32)})


def test_tissue_prior_is_the_share_of_each_cell():
    patches = SlidePatches(ArraySlide(stained(160, 96)), 0.5, 1, workers=1)
    bag = make_bag(patches, "otsu", prior="tissue")
    batch = collate([bag], 16)
    shares = bag.tissue.reshape(6, 16, 10, 16).mean(axis=(1, 3))
    assert batch.prior[0].numpy() == pytest.approx(np.maximum(shares, LEAST_PRIOR))
    assert collate([make_bag(patches, "otsu")], 16).prior is None
    turned = bag.augmented(np.random.default_rng(3), 0.0)
    assert np.array_equal(turned.weights, turned.tissue)


def test_scores_of_a_store_are_the_prior(tmp_path, demo_slide):
    with open_slide(demo_slide) as slide:
        tile_slide(slide, tmp_path / "s.zarr", TileConfig())
    with TileStore.open(tmp_path / "s.zarr") as store:
        patches = SlidePatches(CachedSlide(store, LruCache(1 << 24), 0), None, 16, workers=1)
        bag = make_bag(patches, "otsu", prior="scores")
        assert bag.weights.shape == bag.tissue.shape
        assert bag.weights.dtype == np.uint8
        assert bag.weights.max() > 200
        assert not bag.weights[~bag.tissue].any()
        frame = patches.coarse_view().frame
        painted = score_weights(store, frame, bag.tissue.shape)
        best = store.coords()[np.argmax(tile_weights({"tissue": store.scores(name="tissue")}))]
        assert painted[int(best[1] / 16) + 2, int(best[0] / 16) + 2] > 0
    slide = ArraySlide(stained(160, 96))
    fallen_back = make_bag(SlidePatches(slide, 0.5, 1, workers=1), "otsu", prior="scores")
    assert np.array_equal(fallen_back.weights, fallen_back.tissue)


def test_a_cached_slide_gives_the_same_pixels_and_reads_them_once():
    slide = ArraySlide(stained(1300, 900), levels=(1.0, 2.5))
    cached = CachedSlide(slide, LruCache(1 << 28), "a")
    rng = np.random.default_rng(0)
    for _ in range(40):
        level = int(rng.integers(2))
        x, y = (int(value) for value in rng.integers(-200, 1300, 2))
        size = tuple(int(value) for value in rng.integers(1, 700, 2))
        plain = slide.read_region((x, y), level, size)
        assert np.array_equal(cached.read_region((x, y), level, size), plain)
    reads = slide.reads
    cached.read_region((0, 0), 0, (1300, 900))
    first = slide.reads - reads
    cached.read_region((0, 0), 0, (1300, 900))
    assert first <= 6
    assert slide.reads == reads + first


def test_damage_beside_a_region_does_not_hide_it():
    slide = ArraySlide(stained(600, 600), broken_regions=[(0, Region(400, 400, 5, 5))])
    cached = CachedSlide(slide, LruCache(1 << 28), "a")
    assert BLOCK > 405
    assert np.array_equal(cached.read_region((0, 0), 0, (300, 300)), slide.arrays[0][:300, :300])
    with pytest.raises(SlideReadError):
        cached.read_region((300, 300), 0, (200, 200))
