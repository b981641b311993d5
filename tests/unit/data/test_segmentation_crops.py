"""Crops: pixels and labels change alike, crops cover, and the same seed gives the same crop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.slides import ArraySlide
from wsi_attn.annotations.masks import UNLABELLED, ImageMask
from wsi_attn.data.segmentation import (
    MOST_CROPS,
    Augmentation,
    crops_of,
    fixed_crop,
    fixed_crops,
    random_crop,
)
from wsi_attn.data.sources import SlidePatches
from wsi_attn.geometry import Size


def painted(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Large blocks of two classes."""
    blocks = np.random.default_rng(seed).integers(0, 2, (-(-height // 40), -(-width // 40)))
    return blocks.repeat(40, axis=0).repeat(40, axis=1)[:height, :width].astype(np.uint8)


def field(labels: NDArray[np.uint8]) -> tuple[SlidePatches, ImageMask]:
    """A slide whose pixels say their labels: 40 or 200."""
    pixels = np.where(labels[..., None] == 1, 200, 40).repeat(3, axis=2).astype(np.uint8)
    size = Size(labels.shape[1], labels.shape[0])
    return SlidePatches(ArraySlide(pixels), None, 1, workers=1), ImageMask(labels, None, size)


@pytest.mark.parametrize(
    "change", [Augmentation(), Augmentation(0, 0.3, 0), Augmentation(0, 0, 1), Augmentation(0, 0.3, 1)]
)
@pytest.mark.parametrize("size", [(200, 260), (50, 70)])
def test_pixels_and_labels_change_alike(change: Augmentation, size: tuple[int, int]) -> None:
    patches, mask = field(painted(*size))
    different = 0
    for seed in range(6):
        crop = random_crop(patches, mask, 64, np.random.default_rng(seed), change)
        assert crop.pixels.shape == (64, 64, 3)
        assert crop.valid.all()
        assert (crop.labels != UNLABELLED).all()
        wrong = (crop.pixels[..., 0] > 120) != (crop.labels == 1)
        assert wrong.mean() < 0.04  # interpolation along the borders of blocks
        different += len(np.unique(crop.labels)) > 1
    assert different > 2


def test_colours_change_in_the_pixels_alone() -> None:
    patches, mask = field(painted(200, 200))
    plain = random_crop(patches, mask, 64, np.random.default_rng(3), Augmentation())
    coloured = random_crop(patches, mask, 64, np.random.default_rng(3), Augmentation(colour=1))
    np.testing.assert_array_equal(plain.labels, coloured.labels)
    assert (plain.pixels != coloured.pixels).any()


def test_the_same_seed_gives_the_same_crop() -> None:
    patches, mask = field(painted(300, 300))
    first, again, other = (
        random_crop(patches, mask, 64, np.random.default_rng(seed), Augmentation(1, 0.2, 1)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.pixels != other.pixels).any()


def test_fixed_crops_cover_a_slide_as_it_is() -> None:
    labels = painted(150, 100)
    patches, mask = field(labels)
    seen = np.zeros(labels.shape, np.bool_)
    for x, y in fixed_crops(patches, mask, 64, 0):
        crop = fixed_crop(patches, mask, (x, y), 64)
        assert crop.valid.all()
        np.testing.assert_array_equal(crop.labels, labels[y : y + 64, x : x + 64])
        np.testing.assert_array_equal(crop.pixels[..., 0] > 120, crop.labels == 1)
        seen[y : y + 64, x : x + 64] = True
    assert seen.all()


def test_a_fixed_crop_of_a_small_image_is_mirrored_without_labels() -> None:
    labels = painted(50, 45)
    patches, mask = field(labels)
    assert fixed_crops(patches, mask, 64, 0) == [(0, 0)]
    crop = fixed_crop(patches, mask, (0, 0), 64)
    np.testing.assert_array_equal(crop.labels[:50, :45], labels)
    assert (crop.labels[50:] == UNLABELLED).all()
    assert (crop.labels[:, 45:] == UNLABELLED).all()
    np.testing.assert_array_equal(crop.valid, crop.labels != UNLABELLED)
    np.testing.assert_array_equal(crop.pixels[50, :45], crop.pixels[48, :45])


def test_of_large_slides_places_with_labels_are_drawn() -> None:
    labels = np.full((2000, 2000), UNLABELLED, np.uint8)
    labels[500:900, 600:900] = 0
    labels[600:700, 700:800] = 1
    patches, mask = field(labels)
    assert crops_of(patches.extent, 64) == MOST_CROPS
    corners = fixed_crops(patches, mask, 64, 5)
    assert len(corners) == MOST_CROPS
    assert corners == fixed_crops(patches, mask, 64, 5)
    at_cells = [(fixed_crop(patches, mask, corner, 64).labels == 1).any() for corner in corners]
    assert sum(at_cells) > 4
    for seed in range(10):
        assert (random_crop(patches, mask, 64, np.random.default_rng(seed), Augmentation()).labels != UNLABELLED).any()
