"""A coarse view too large to be held: read block by block it gives what one pass over all of it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.slides import ArraySlide, stained
from tests.unit.tasks.classification.test_predict_slide import ONE_THREAD, checkpoint
from wsi_attn.data import large
from wsi_attn.data.large import large_bag
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Region
from wsi_attn.tasks.classification.config import PredictConfig
from wsi_attn.tasks.classification.slide import predict_slide


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slides count as large from 40 x 40 coarse pixels on."""
    monkeypatch.setattr(large, "VIEW_PIXELS", 1600)


def equal(found, expected) -> None:
    assert found.label == expected.label
    assert list(found.probabilities.values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    assert [vars(region) for region in found.attention] == [
        {**vars(region), "weight": pytest.approx(region.weight, abs=1e-5)} for region in expected.attention
    ]
    np.testing.assert_allclose(found.attention_map.values, expected.attention_map.values, atol=1e-5)
    for name, expected_map in expected.maps.items():
        np.testing.assert_allclose(found.maps[name].values, expected_map.values, atol=1e-4)


@pytest.mark.parametrize("size", [(900, 700), (517, 1203)])
def test_blocks_give_what_the_whole_view_gives(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    slide, model = ArraySlide(stained(*size)), checkpoint(tissue="none")
    expected = predict_slide(slide, model, ONE_THREAD)
    monkeypatch.setattr(large, "VIEW_PIXELS", 1600)
    monkeypatch.setattr(large, "PART", 64)
    equal(predict_slide(slide, model, PredictConfig(workers=2)), expected)


@pytest.mark.usefixtures("everything_is_large")
def test_tissue_and_its_share_of_every_cell() -> None:
    slide = ArraySlide(stained(1280, 960), levels=(1.0, 4.0, 16.0))
    bag = large_bag(SlidePatches(slide, 0.5, 4), 4, "otsu", prior="tissue")
    assert bag.batch.valid[0].shape == (60, 80)
    assert bag.batch.valid[0][30, 40]
    assert not bag.batch.valid[0][0, 0]
    assert bag.batch.prior is not None
    assert bag.batch.prior[0, 30, 40] == 1
    assert bag.batch.prior[0, 0, 0] == pytest.approx(0.01)
    assert bag.tissue.mean() == pytest.approx(np.pi * 0.35**2, rel=0.1)


@pytest.mark.usefixtures("everything_is_large")
def test_places_without_tissue_are_not_read() -> None:
    slide = ArraySlide(stained(1280, 960), levels=(1.0, 4.0, 16.0))
    read, seen = slide.read_region, []

    def watched(xy0, level, size):
        seen.append((level, *xy0, *size))
        return read(xy0, level, size)

    slide.read_region = watched
    predict_slide(slide, checkpoint(), ONE_THREAD)
    at_high_resolution = [entry for entry in seen if entry[0] == 0]
    assert len(at_high_resolution) == 4  # the key instances


@pytest.mark.usefixtures("everything_is_large")
def test_damage_found_while_looking_is_left_out() -> None:
    model = checkpoint(tissue="none")
    pixels = stained(1024, 1024)
    broken = [(1, Region(128, 128, 20, 20))]  # in pixels of level 1, which tissue is not looked for on
    slide = ArraySlide(pixels, levels=(1.0, 4.0, 32.0), broken_regions=broken, tile=16)
    found = predict_slide(slide, model, ONE_THREAD)
    assert found.unreadable_tiles > 0
    values = found.attention_map.values  # cells of 16 px
    assert np.isnan(values[32:37, 32:37]).all()
    assert np.isfinite(values[:30, :30]).all()
    assert np.nansum(values) == pytest.approx(1, abs=1e-4)


@pytest.mark.usefixtures("everything_is_large")
def test_colours_are_judged_by_a_sample_of_the_tissue() -> None:
    slide = ArraySlide(stained(1280, 960), levels=(1.0, 4.0))
    bag = large_bag(SlidePatches(slide, 0.5, 4), 4, "otsu")
    pixels, tissue = bag.sample()
    assert pixels.shape[:2] == tissue.shape
    assert (
        np.abs(pixels[tissue].mean(axis=0) - [200, 110, 170]).max() < 12
    )  # the edge of the mask lies a little outside


def test_a_view_gives_slices_as_an_array_does() -> None:
    patches = SlidePatches(ArraySlide(stained(300, 200)), 0.5, 4)
    whole = torch.from_numpy(patches.coarse_view().pixels).permute(2, 0, 1)[None]
    view = large.BlockView(patches)
    assert view.shape == tuple(whole.shape)
    assert torch.equal(view[:, :], whole)
    assert torch.equal(view[:, :, 10:30, 5:900], whole[:, :, 10:30, 5:900])


def test_a_sound_slide_is_looked_over_once() -> None:
    bag = large_bag(SlidePatches(ArraySlide(stained(300, 200)), 0.5, 4), 4, "none")
    bag.view.read(Region(0, 0, 20, 20))
    assert bag.without_damage() is None
    bag.view.damaged.add(Region(4, 8, 4, 4))
    sound = bag.without_damage()
    assert sound is not None
    assert (bag.batch.valid[0] & ~sound.batch.valid[0]).sum() == 1
    assert not sound.batch.valid[0][2, 1]
    assert sound.frame == bag.frame
