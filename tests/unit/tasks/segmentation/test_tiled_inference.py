"""A slide in tiles against the slide as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.slides import ArraySlide, stained
from tests.unit.tasks.segmentation.networks import tiny
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Region
from wsi_attn.models.base import BagBatch
from wsi_attn.models.joint_segmentation import JointSegmentation
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference


def patches(pixels: NDArray[np.uint8], **options: object) -> SlidePatches:
    return SlidePatches(ArraySlide(pixels, **options), None, 1, workers=1)


def whole(network: JointSegmentation, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of one pass over all of it."""
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    batch = BagBatch(image, torch.ones(1, height, width, dtype=torch.bool), torch.tensor([[width, height]]), ())
    with torch.inference_mode():
        output = network(batch)
    assert output.segmentation is not None
    return output.segmentation.softmax(dim=1)[0].numpy()


@pytest.mark.parametrize("attention", ["none", "pointwise"])
def test_tiles_equal_the_whole_where_the_overlap_covers_what_the_network_sees(attention: str) -> None:
    network = tiny(attention)
    assert (network.network.halo or 0) <= 640 // 4
    pixels = stained(1650, 70)
    field = TiledInference(network, patches(pixels), 1280, 640, workers=1)
    assert len(field.columns) == 2
    found = field.answer(Region(0, 0, 1650, 70))
    wanted = whole(network, pixels)
    np.testing.assert_allclose(found.probabilities, wanted, atol=2e-5)
    assert wanted.std() > 0.05  # the network says different things
    np.testing.assert_array_equal(found.classes, found.probabilities.argmax(axis=0))


@pytest.mark.parametrize("attention", ["pointwise", "joint"])
def test_blocks_equal_the_answer_to_all(attention: str) -> None:
    field = TiledInference(tiny(attention), patches(stained(200, 170)), 64, 32, workers=1)
    all_of_it = field.answer(Region(0, 0, 200, 170)).probabilities
    for block in (Region(0, 0, 50, 60), Region(50, 0, 150, 60), Region(37, 60, 101, 110)):
        found = field.answer(block).probabilities
        np.testing.assert_allclose(found, all_of_it[:, block.y : block.y1, block.x : block.x1], atol=1e-5)


def test_there_is_no_seam_where_the_network_sees_further_than_the_overlap() -> None:
    network = tiny("joint")
    pixels = stained(300, 64, seed=1)
    tiled = TiledInference(network, patches(pixels), 128, 64, workers=1).answer(Region(0, 0, 300, 64)).probabilities
    hard = TiledInference(network, patches(pixels), 128, 0, workers=1).answer(Region(0, 0, 300, 64)).probabilities
    reference = whole(network, pixels)
    jumps = np.abs(np.diff(tiled - reference, axis=2)).max(axis=(0, 1))
    seams = np.abs(np.diff(hard - reference, axis=2)).max(axis=(0, 1))
    assert seams[127] > 2 * jumps.max()  # without overlap there is one, at the border of the tiles
    assert np.abs(tiled - reference).mean() < np.abs(hard - reference).mean()


def test_only_wanted_tiles_are_looked_at() -> None:
    network = tiny()
    seen: list[Region] = []

    def wanted(regions: list[Region]) -> NDArray[np.bool_]:
        seen.extend(regions)
        return np.array([region.x1 <= 100 for region in regions])

    field = TiledInference(network, patches(stained(300, 64)), 64, 32, wanted, workers=1)
    found = field.answer(Region(0, 0, 300, 64))
    assert (found.probabilities.sum(axis=0)[:, 104:] == 0).all()
    np.testing.assert_allclose(found.probabilities.sum(axis=0)[:, :80], 1, atol=1e-5)
    assert not field.looks_at(Region(200, 0, 100, 64))
    assert field.looks_at(Region(0, 0, 100, 64))
    assert seen


def test_what_cannot_be_read_is_counted_and_the_rest_answered() -> None:
    pixels = stained(200, 64)
    slide = patches(pixels, broken_regions=[(0, Region(0, 0, 16, 16))], tile=16)
    found = TiledInference(tiny(), slide, 64, 0, workers=1).answer(Region(0, 0, 200, 64))
    assert found.unreadable == 1
    clean = TiledInference(tiny(), patches(pixels), 64, 0, workers=1).answer(Region(0, 0, 200, 64))
    np.testing.assert_allclose(found.probabilities[:, :, 64:], clean.probabilities[:, :, 64:], atol=1e-6)
