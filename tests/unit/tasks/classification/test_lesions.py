"""Lesions on the cells of the map: weights by hand, and that augmentation moves them with the image."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_attn.data.bags import make_bag
from wsi_attn.data.manifest import Row
from wsi_attn.data.saliency import salient_boxes
from wsi_attn.data.slide_cache import SlideCache
from wsi_attn.data.sources import SlidePatches, open_row
from wsi_attn.errors import ManifestError, UnknownNameError, UsageError
from wsi_attn.models.cnn import Cnn, CnnConfig
from wsi_attn.slides.image_reader import ArraySlide
from wsi_attn.tasks.classification.care import LesionCells
from wsi_attn.tasks.classification.dataset import Dataset
from wsi_attn.tasks.classification.lesions import (
    lesion_cells,
    lesion_rows,
    moved_region,
    rare_labels,
    resized_region,
    shuffled_lesions,
)
from wsi_attn.tasks.config import Resources, TrainConfig

ROUND = {"atol": 1e-6}


def everywhere(height: int, width: int) -> torch.Tensor:
    return torch.ones((1, height, width), dtype=torch.bool)


def weights(found: np.ndarray | None, valid: torch.Tensor, stride: int, distance: float) -> LesionCells:
    return lesion_cells([found], [(8, 12)], valid, stride, distance)


def region(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    found = np.zeros(shape, bool)
    for x1, y1, x2, y2 in boxes:
        found[y1:y2, x1:x2] = True
    return found


def test_cells_weigh_by_the_area_that_the_lesion_covers() -> None:
    """Cells of 4 pixels; the box covers half of one, all of another."""
    marks = weights(region((8, 12), (2, 0, 8, 4)), everywhere(2, 3), 4, 0.0)
    assert torch.allclose(marks.inner, torch.tensor([[[1 / 3, 2 / 3, 0], [0, 0, 0]]]), **ROUND)
    assert torch.allclose(marks.outer * 72, torch.tensor([[[8.0, 0, 16], [16, 16, 16]]]), **ROUND)


def test_cells_at_the_edge_weigh_by_what_lies_in_the_image() -> None:
    marks = weights(region((4, 6), (4, 0, 6, 4)), everywhere(1, 2), 4, 0.0)
    assert marks.inner.tolist() == [[[0, 1]]]
    assert marks.outer.tolist() == [[[1, 0]]]


def test_distance_is_counted_in_city_blocks() -> None:
    """A single cell in the middle of 5 x 5, delta 1: 1 + d, summed by hand to 24 + 60."""
    marks = weights(region((5, 5), (2, 2, 3, 3)), everywhere(5, 5), 1, 1.0)
    across = np.abs(np.arange(5) - 2)
    wanted = 1 + across[:, None] + across[None, :]
    wanted[2, 2] = 0
    assert wanted.sum() == 84
    assert torch.allclose(marks.outer[0] * 84, torch.from_numpy(wanted).float(), atol=1e-4)
    even = weights(region((5, 5), (2, 2, 3, 3)), everywhere(5, 5), 1, 0.0)
    assert len(even.outer.unique()) == 2


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 14), st.integers(1, 12), st.integers(1, 9)), max_size=3),
    st.integers(1, 6),
    st.floats(0, 3),
)
def test_weights_sum_to_one_and_several_boxes_are_their_union(
    boxes: list[tuple[int, int, int, int]], stride: int, distance: float
) -> None:
    corners = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    found = region((16, 24), *corners)
    valid = everywhere(-(-16 // stride), -(-24 // stride))
    marks = weights(found, valid, stride, distance)
    if not found.any() or found.all():
        assert not marks.inner.any()
        return
    covered = torch.from_numpy(
        np.add.reduceat(np.add.reduceat(found, range(0, 16, stride), 0), range(0, 24, stride), 1)
    )
    assert torch.equal(marks.inner[0] > 0, covered > 0)
    assert marks.inner.sum() == pytest.approx(1, abs=1e-5)
    assert marks.outer.sum() == pytest.approx(1, abs=1e-5)
    assert marks.inner[0] * covered.sum() == pytest.approx(covered.numpy(), abs=1e-4)


def test_what_may_not_be_looked_at_has_no_weight() -> None:
    valid = everywhere(2, 3)
    valid[0, 0, 0] = False
    both = region((8, 12), (0, 0, 8, 4))
    assert weights(both, valid, 4, 0.0).inner.tolist() == [[[0, 1, 0], [0, 0, 0]]]
    only = region((8, 12), (0, 0, 4, 4))
    for nothing in (only, np.ones((8, 12), bool), np.zeros((8, 12), bool), None):
        marks = weights(nothing, valid, 4, 0.0)
        assert not marks.inner.any()
        assert not marks.outer.any()


def test_small_images_in_a_padded_batch() -> None:
    valid = torch.zeros((2, 3, 3), dtype=torch.bool)
    valid[0] = True
    valid[1, :2, :2] = True
    marks = lesion_cells([None, region((8, 8), (0, 0, 4, 4))], [(12, 12), (8, 8)], valid, 4, 0.0)
    assert marks.grids == ((3, 3), (2, 2))
    assert marks.inner[1, 0, 0] == 1
    assert marks.outer[1].sum() == pytest.approx(1)
    assert not marks.outer[1, 2].any()
    assert not marks.inner[0].any()


def row(folder: Path, number: int = 2, label: str = "rare", boxes: str = "", mask: Path | None = None) -> Row:
    path = folder / f"{number}.png"
    pixels = np.full((48, 64, 3), 230, np.uint8)
    pixels[10:20, 30:50] = (90, 40, 120)
    Image.fromarray(pixels).save(path)
    return Row(path, label, f"p{number}", "train", None, number, boxes=boxes, mask=mask)


def data_of(rows: list[Row], **options: object) -> Dataset:
    network = Cnn(CnnConfig(classes=2, coarse_factor=1, coarse_widths=(4, 4)))
    config = TrainConfig(system="cnn", batch_size=4, colour=0.0, **options)
    marked = {found.number: found for found in rows if found.boxes or found.mask}
    dataset = Dataset(rows, ("common", "rare"), network, config, SlideCache(1 << 24), Resources(workers=1))
    dataset.lesions = marked
    return dataset


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 0.4]))
def test_the_box_moves_with_its_image(seed: int, scale: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The image is dark just in the box, so the box can be checked against the pixels however both were moved."""
    folder = tmp_path_factory.getbasetemp()
    data = data_of([row(folder, boxes="30 10 50 20")], scale=scale)
    bag = data.bag(data.rows[0], np.random.default_rng(seed))
    dark = bag.view.mean(axis=2) < 170
    assert bag.lesion is not None
    assert bag.lesion.shape == dark.shape
    if scale == 0:
        assert np.array_equal(bag.lesion, dark)
    else:  # the last pixel of a rescaled view reaches over the edge, so that all are off by less than one
        around = np.ones((3, 3), np.uint8)
        assert not (dark & (cv2.dilate(bag.lesion.view(np.uint8), around) == 0)).any()
        assert not ((cv2.erode(bag.lesion.view(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~dark).any()


def test_a_colour_change_moves_no_box(tmp_path: Path) -> None:
    with open_row(row(tmp_path)) as slide:
        bag = make_bag(SlidePatches(slide, None, 1), "none")
    lesion = region((48, 64), (30, 10, 50, 20))
    marked = type(bag)(bag.view, bag.tissue, bag.extent, bag.source, lesion=lesion)
    changed = marked.augmented(np.random.default_rng(3), 1.0)
    assert changed.lesion is not None
    assert changed.lesion.sum() == lesion.sum()
    assert marked.augmented(np.random.default_rng(3), 0.0).lesion is not None


def test_steps_carry_lesions_of_rare_rows_only_and_after_their_epoch(tmp_path: Path) -> None:
    rows = [row(tmp_path, 2, boxes="30 10 50 20"), row(tmp_path, 3, "common"), row(tmp_path, 4, "common")]
    data = data_of(rows, care="boxes", care_after=2)
    for epoch in range(4):
        (step,) = data.batches(epoch, training=True)
        assert (step.lesions is not None) == (epoch >= 2)
    assert step.lesions is not None
    marked = [found.number == 2 for found in step.rows]
    assert step.lesions.inner.flatten(1).any(dim=1).tolist() == marked
    (step,) = data.batches(5, training=False)
    assert step.lesions is None


def test_the_attention_loss_starts_in_the_second_half_by_default() -> None:
    assert TrainConfig(epochs=20).first_care_epoch() == 10
    assert TrainConfig(epochs=1).first_care_epoch() == 0
    assert TrainConfig(epochs=20, care="boxes", care_after=0).first_care_epoch() == 0


def test_random_boxes_keep_their_shape_and_lie_inside() -> None:
    given = region((20, 30), (3, 4, 8, 6), (8, 6, 10, 9))
    places = set()
    for seed in range(40):
        moved = moved_region(given, np.random.default_rng(seed))
        rows, columns = moved.nonzero()
        places.add((rows.min(), columns.min()))
        assert np.array_equal(moved[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], given[4:9, 3:10])
    assert len(places) > 20
    assert not moved_region(region((20, 30)), np.random.default_rng(0)).any()


def test_shuffled_boxes_are_those_of_other_images(tmp_path: Path) -> None:
    lesions = {number: row(tmp_path, number, boxes="30 10 50 20") for number in (2, 5, 7, 9)}
    found = shuffled_lesions(lesions, 0)
    assert set(found) == set(lesions)
    assert {other.number for other in found.values()} == set(lesions)
    assert all(number != other.number for number, other in found.items())
    with pytest.raises(UsageError, match="random"):
        shuffled_lesions({2: lesions[2]}, 0)


@pytest.mark.parametrize("boxes", ["given", "random", "shuffled"])
def test_controls_change_where_the_lesions_are(tmp_path: Path, boxes: str) -> None:
    rows = [row(tmp_path, 2, boxes="0 0 12 12"), row(tmp_path, 3, boxes="50 30 64 48")]
    data = data_of(rows, care="boxes", care_after=0, care_boxes=boxes)
    if boxes == "shuffled":
        data.lesions = shuffled_lesions(dict(data.lesions), 0)
    lesion = data.bag(rows[0], np.random.default_rng(0)).lesion
    assert lesion is not None
    plain = data_of(rows, care="boxes", care_after=0).bag(rows[0], np.random.default_rng(0)).lesion
    assert plain is not None
    assert np.array_equal(lesion, plain) == (boxes == "given")
    if boxes == "random":
        assert lesion.sum() == plain.sum()


def test_rare_classes() -> None:
    rows = [Row(Path("x"), label, "", "train", None, n) for n, label in enumerate("a" * 60 + "b" * 30 + "c" * 9)]
    assert rare_labels(rows, "abc", ()) == ("c",)
    assert rare_labels(rows, "abc", ("b", "a")) == ("b", "a")
    with pytest.raises(UnknownNameError) as caught:
        rare_labels(rows, "abc", ("d",))
    assert (caught.value.kind, caught.value.name) == ("rare class", "d")
    with pytest.raises(UsageError, match="--rare-classes"):
        rare_labels(rows[30:90], "ab", ())


def slide_of(row: Row) -> ArraySlide:
    return open_row(row)


def test_rows_with_a_known_lesion(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"images": [{"id": 1, "file_name": "4.png"}], "annotations": []}))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "nothing.png")
    rows = [
        row(tmp_path, 2, boxes="30 10 50 20"),
        row(tmp_path, 3),
        row(tmp_path, 4, boxes=str(empty)),
        row(tmp_path, 5, mask=tmp_path / "nothing.png"),
        row(tmp_path, 6, "common", boxes="1 1 2 2"),
    ]
    assert lesion_rows(rows, ("rare",), slide_of) == {2: rows[0]}
    found = lesion_rows(rows, ("rare",), slide_of, salient_boxes)
    assert set(found) == {2, 3, 4, 5}
    x1, y1, x2, y2 = map(int, found[5].boxes.split())
    assert (abs(x1 - 30), abs(y1 - 10), abs(x2 - 50), abs(y2 - 20)) <= (4, 4, 4, 4)
    assert found[5].mask is None
    with pytest.raises(ManifestError, match=r"no training row of rare has boxes.*fill `boxes`"):
        lesion_rows(rows[1:4], ("rare",), slide_of)


def test_masks_that_are_wrong_are_said_before_training(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "square.png")
    with pytest.raises(ManifestError, match=r"row 2: mask .*square.png .* must cover the whole image"):
        lesion_rows([row(tmp_path, mask=tmp_path / "square.png")], ("rare",), slide_of)


@given(st.integers(0, 30), st.integers(0, 20), st.integers(5, 60), st.integers(5, 40))
def test_no_region_is_lost_in_another_size(x: int, y: int, width: int, height: int) -> None:
    small = region((21, 31), (x, y, x + 1, y + 1))
    found = resized_region(small, (height, width))
    assert found.any()
    ys, xs = np.nonzero(found)
    assert np.abs((xs.mean() + 0.5) / width - (x + 0.5) / 31) < 1 / width + 1 / 31
    assert np.abs((ys.mean() + 0.5) / height - (y + 0.5) / 21) < 1 / height + 1 / 21
