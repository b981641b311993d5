"""Boxes that are found: saliency by hand and on scenes, boxes around masks, overlap, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slides import ArraySlide
from wsi_attn.annotations.boxes import (
    Box,
    as_text,
    box_mask,
    boxes_from,
    boxes_of_mask,
    overlap,
    parse_boxes,
)
from wsi_attn.annotations.picture import draw_boxes
from wsi_attn.annotations.regions import given_boxes
from wsi_attn.data.manifest import Row, read_manifest
from wsi_attn.data.saliency import overview, saliency, salient_boxes, salient_mask
from wsi_attn.data.sources import open_row
from wsi_attn.geometry import Size


def scene(height: int, width: int, *objects: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Pale ground with grain, and dark violet rectangles x1 y1 x2 y2."""
    pixels = np.random.default_rng(seed).normal((235, 225, 230), 3, (height, width, 3))
    for x1, y1, x2, y2 in objects:
        pixels[y1:y2, x1:x2] = np.random.default_rng(seed + 1).normal((110, 60, 140), 3, (y2 - y1, x2 - x1, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def near(box: Box, wanted: tuple[int, int, int, int], within: float) -> bool:
    return all(abs(found - true) <= within for found, true in zip(box, wanted, strict=True))


def test_saliency_of_two_colours_is_their_distance() -> None:
    """A rim of one colour, and a middle that differs by d: every u_k is d on it and 0 elsewhere, so U is too."""
    pixels = np.full((60, 60, 3), 200, np.uint8)
    pixels[20:40, 20:40] = 90
    found = saliency(pixels)
    assert found.dtype == np.float32
    assert found[25:35, 25:35] == pytest.approx(np.ones((10, 10)), abs=1e-5)
    assert not found[:10].any()
    assert np.array_equal(salient_mask(found)[25:35, 25:35], np.ones((10, 10), bool))
    assert not salient_mask(found)[:15].any()


def test_an_object_that_touches_one_side_still_stands_out() -> None:
    pixels = scene(80, 100, (30, 0, 60, 40))
    found = saliency(pixels)
    assert found[5:35, 35:55].min() > 2 * found[50:].max()


@pytest.mark.parametrize("pixels", [np.full((30, 40, 3), 77, np.uint8), np.zeros((1, 1, 3), np.uint8)])
def test_nothing_stands_out_of_one_colour(pixels: np.ndarray) -> None:
    assert not saliency(pixels).any()
    assert not salient_mask(saliency(pixels)).any()
    assert salient_boxes(ArraySlide(pixels, mpp=None)).boxes == ()


@pytest.mark.parametrize("scale", [1, 8])
def test_objects_are_boxed_in_level_0_pixels(scale: int) -> None:
    small = scene(120, 160, (20, 30, 60, 70), (100, 60, 130, 95))
    slide = ArraySlide(small.repeat(scale, axis=0).repeat(scale, axis=1), mpp=None)
    found = salient_boxes(slide)
    assert len(found.boxes) == len(found.scores) == 2
    assert near(found.boxes[0], (20 * scale, 30 * scale, 60 * scale, 70 * scale), 6 * scale)
    assert near(found.boxes[1], (100 * scale, 60 * scale, 130 * scale, 95 * scale), 6 * scale)
    assert all(0.3 < score <= 1 for score in found.scores)


@pytest.mark.parametrize("object_", [(50, 50, 54, 54), (3, 3, 117, 117)])
def test_what_is_too_small_or_too_large_is_no_box(object_: tuple[int, int, int, int]) -> None:
    assert salient_boxes(ArraySlide(scene(120, 120, object_), mpp=None)).boxes == ()


def test_least_area_can_be_waived() -> None:
    likely = np.zeros((100, 100), np.float32)
    likely[50:53, 40:43] = 0.8
    assert boxes_from(likely, likely > 0.5, Size(100, 100)).boxes == ()
    found = boxes_from(likely, likely > 0.5, Size(100, 100), least=0.0)
    assert near(found.boxes[0], (40, 50, 43, 53), 1)
    assert boxes_from(likely * 0, likely > 2, Size(100, 100), least=0.0).boxes == ()


def test_light_parts_of_a_mask_get_no_box() -> None:
    mask = np.zeros((40, 60), bool)
    mask[2:22, 3:23] = mask[30:33, 30:33] = mask[5:20, 40:56] = True
    found = boxes_of_mask(mask, Size(60, 40), padding=0)
    assert found == [Box(3, 2, 23, 22), Box(40, 5, 56, 20)]
    weight = np.where(mask, np.float32(0.1), np.float32(0))
    weight[30:33, 30:33] = 9
    assert boxes_of_mask(mask, Size(60, 40), weight, padding=0)[0] == Box(30, 30, 33, 33)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 1 << 30), st.integers(1, 900), st.integers(1, 900))
def test_boxes_lie_on_the_slide_and_cover_their_parts(
    width: int, height: int, seed: int, width0: int, height0: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    size0 = Size(max(width, width0), max(height, height0))
    boxes = boxes_of_mask(mask, size0)
    assert bool(boxes) == mask.any()
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= size0.width
        assert 0 <= y1 < y2 <= size0.height
    assert [tuple(map(int, box)) for box in parse_boxes("here", as_text(boxes))] == [tuple(box) for box in boxes]
    if boxes:
        weights = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        heaviest = 1 + int(weights[2][1:, cv2.CC_STAT_AREA].argmax())
        assert box_mask(boxes, size0, mask.shape)[weights[1] == heaviest].all()


def test_overlap_by_hand() -> None:
    one, other = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    one[:4, :4] = other[2:6, 2:6] = True
    assert overlap(one, other) == pytest.approx(4 / 28)
    assert overlap(one, one) == 1
    assert overlap(one & False, other & False) == 0


def test_given_regions_count_as_boxes(tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    cv2.circle(mask, (50, 40), 20, 255, -1)
    mask[5, 6] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    row = Row(tmp_path / "a.png", "x", "p", "", None, 2, mask=tmp_path / "mask.png")
    found = given_boxes(row, Size(100, 80), (80, 100))
    assert found is not None
    assert np.array_equal(found, box_mask([Box(30, 20, 71, 61), Box(6, 5, 7, 6)], Size(100, 80), (80, 100)))
    boxed = Row(tmp_path / "a.png", "x", "p", "", None, 2, boxes="1 2 30 40")
    assert np.array_equal(
        given_boxes(boxed, Size(100, 80), (80, 100)), box_mask([Box(1, 2, 30, 40)], *[Size(100, 80), (80, 100)])
    )
    assert given_boxes(Row(tmp_path / "a.png", "x", "p", "", None, 2), Size(100, 80), (80, 100)) is None


@pytest.mark.parametrize("side", [50, 3000])
def test_pictures_show_both_and_have_a_size_for_people(side: int) -> None:
    slide = ArraySlide(np.full((side, 2 * side, 3), 240, np.uint8), mpp=None)
    given = np.zeros(overview(slide).pixels.shape[:2], bool)
    given[: len(given) // 2] = True
    box = Box(side // 2, side // 4, side, side // 2)
    picture = cv2.imdecode(np.frombuffer(draw_boxes(slide, [box], given), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert 400 <= max(picture.shape) <= 800
    assert abs(picture.shape[1] / picture.shape[0] - 2) < 0.02
    orange, green = ((picture == colour).all(axis=2) for colour in ((213, 94, 0), (0, 158, 115)))
    ys, xs = np.nonzero(orange)
    scale = picture.shape[1] / (2 * side)
    assert near(Box(xs.min(), ys.min(), xs.max(), ys.max()), tuple(side_ * scale for side_ in box), 3)
    assert green.any()


def test_boxes_of_real_cells_meet_those_of_their_masks(collection: Callable[[str], Path]) -> None:
    """Every tenth cell; the whole set is measured in docs/care.md."""
    found = []
    for row in read_manifest(collection("boxes/wbc/index.csv"))[::10]:
        with open_row(row) as slide:
            shape = overview(slide).pixels.shape[:2]
            given = given_boxes(row, slide.info.size0, shape)
            assert given is not None
            found.append(overlap(box_mask(salient_boxes(slide).boxes, slide.info.size0, shape), given))
    assert np.mean(found) > 0.7
