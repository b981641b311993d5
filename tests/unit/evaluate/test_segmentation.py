"""Metrics of segmentations against closed forms on hand-made masks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wsi_attn.errors import PredictionError
from wsi_attn.evaluate.report import Origin
from wsi_attn.evaluate.segmentation import COLUMNS, PixelCounts, count_pixels, evaluate_segmentation

ALL = np.ones((40, 60), np.bool_)


def rectangles(*boxes: tuple[int, int, int, int], value: int = 1) -> NDArray[np.uint8]:
    """Mask with rows y0:y1 and columns x0:x1 set."""
    mask = np.zeros((40, 60), np.uint8)
    for y0, y1, x0, x1 in boxes:
        mask[y0:y1, x0:x1] = value
    return mask


def row(counts: PixelCounts, c: int = 1) -> dict[str, int]:
    return dict(zip(COLUMNS, counts.table[c].tolist(), strict=True))


def report(*counts: PixelCounts, patients: list[str] | None = None) -> dict[str, object]:
    names = patients or [str(index) for index in range(len(counts))]
    labels = ["background", "cell", "gland"][: len(counts[0].table)]
    return evaluate_segmentation(counts, labels, names, Origin("test", 0, "", {"name": "m"})).record()


def test_equal_masks_are_perfect() -> None:
    mask = rectangles((5, 15, 5, 25), (20, 30, 10, 20))
    found = report(count_pixels(mask, mask, 2, ALL))
    for metric in ("dice", "iou", "boundary_f", "object_f1", "image_dice", "pixel_accuracy"):
        assert found[metric]["value"] == 1


def test_overlap_in_closed_form() -> None:
    counts = count_pixels(rectangles((10, 20, 10, 20)), rectangles((10, 20, 15, 35)), 2, ALL)
    found = row(counts)
    assert (found["tp"], found["fp"], found["fn"]) == (50, 50, 150)
    answer = report(counts)
    assert answer["dice"]["value"] == pytest.approx(2 * 50 / 300)
    assert answer["iou"]["value"] == pytest.approx(50 / 250)
    assert answer["pixel_accuracy"]["value"] == pytest.approx(1 - 200 / 2400)
    assert counts.confusion.tolist() == [[2400 - 250, 50], [150, 50]]
    assert (found["object_tp"], found["object_fp"], found["object_fn"]) == (0, 1, 1)


def test_outlines_within_the_tolerance_agree() -> None:
    mask = rectangles((10, 30, 10, 30))
    perimeter = 4 * 19
    near = row(count_pixels(rectangles((12, 32, 10, 30)), mask, 2, ALL))  # two pixels down
    assert near["edge"] == near["mask_edge"] == perimeter
    assert near["edge_hit"] == near["mask_edge_hit"] == perimeter
    far = row(count_pixels(rectangles((13, 33, 10, 30)), mask, 2, ALL))  # three: both ends are out of reach
    # All 20 pixels of the far side are three pixels off; of the near side 14, since three at each end lie by a flank.
    assert far["edge_hit"] == far["mask_edge_hit"] == perimeter - 34
    p = (perimeter - 34) / perimeter
    assert report(count_pixels(rectangles((13, 33, 10, 30)), mask, 2, ALL))["boundary_f"]["value"] == pytest.approx(p)


def test_the_edge_of_the_image_is_no_outline() -> None:
    whole = row(count_pixels(ALL.astype(np.uint8), ALL.astype(np.uint8), 2, ALL))
    assert whole["edge"] == whole["mask_edge"] == 0
    half = row(count_pixels(rectangles((0, 40, 0, 30)), rectangles((0, 40, 0, 30)), 2, ALL))
    assert half["edge"] == 40


def test_objects_are_paired_above_half_iou_and_numbers_of_the_mask_are_kept() -> None:
    mask = rectangles((5, 15, 5, 15), (5, 15, 15, 25))  # two touching objects
    numbers = np.zeros((40, 60), np.int32)
    numbers[5:15, 5:15], numbers[5:15, 15:25] = 7, 900
    split = rectangles((5, 15, 5, 14), (5, 15, 16, 25))
    found = row(count_pixels(split, mask, 2, ALL, numbers))
    assert (found["object_tp"], found["object_fp"], found["object_fn"]) == (2, 0, 0)
    merged = row(count_pixels(mask, mask, 2, ALL, numbers))
    assert (merged["object_tp"], merged["object_fp"], merged["object_fn"]) == (0, 1, 2)  # IoU of exactly a half
    connected = row(count_pixels(mask, mask, 2, ALL))
    assert (connected["object_tp"], connected["object_fp"], connected["object_fn"]) == (1, 0, 0)
    full = np.ones((40, 60), np.int32)
    assert row(count_pixels(ALL.astype(np.uint8), ALL.astype(np.uint8), 2, ALL, full))["object_tp"] == 1


def test_pixels_without_a_label_count_for_nothing() -> None:
    labelled = ALL.copy()
    labelled[:, 30:] = False
    mask, answer = rectangles((10, 20, 10, 30)), rectangles((10, 20, 10, 60))
    mask[~labelled] = 255
    found = row(count_pixels(answer, mask, 2, labelled))
    assert (found["tp"], found["fp"], found["fn"]) == (200, 0, 0)
    assert found["edge"] == found["edge_hit"] == found["mask_edge"] == 20 + 20 + 8  # no outline along the border of it


def test_overall_is_the_mean_over_the_classes_that_occur_but_the_background() -> None:
    mask = rectangles((0, 10, 0, 10))
    found = report(count_pixels(mask, mask, 3, ALL))
    assert found["dice"]["value"] == 1
    assert found["per_class"]["gland"]["dice"]["value"] is None
    answer = mask.copy()
    answer[20:30, 20:30] = 2
    assert report(count_pixels(answer, mask, 3, ALL))["dice"]["value"] == 0.5


def test_nothing_to_find_and_nothing_found_is_undefined() -> None:
    empty = np.zeros((40, 60), np.uint8)
    found = report(count_pixels(empty, empty, 2, ALL))
    assert found["dice"] == {"value": None, "low": None, "high": None}
    assert found["pixel_accuracy"]["value"] == 1


def test_counts_are_pooled_and_patients_resampled() -> None:
    good, bad = rectangles((0, 10, 0, 10)), rectangles((20, 30, 20, 30))
    counts = [count_pixels(good, good, 2, ALL), count_pixels(bad, good, 2, ALL)]
    found = report(*counts)
    assert found["dice"]["value"] == pytest.approx(2 * 100 / 400)
    assert found["image_dice"]["value"] == 0.5
    assert found["dice"]["low"] is None  # two patients
    more = report(*counts, counts[1])
    assert (more["dice"]["low"], more["dice"]["high"]) == (0, 1)
    one = report(*counts, patients=["same", "same"])
    assert one["dice"]["low"] is None
    assert one["groups"] == 1


def test_wrong_arrays_are_refused() -> None:
    mask = rectangles((0, 10, 0, 10))
    with pytest.raises(PredictionError):
        count_pixels(mask[1:], mask, 2, ALL)
    with pytest.raises(PredictionError):
        count_pixels(mask * 2, mask, 2, ALL)
    with pytest.raises(PredictionError):
        evaluate_segmentation([], ["a", "b"], [], Origin("test", 0, "", {}))
