"""Data sets of the experiments: controls move boxes and pixels and nothing else; patients are in one fold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.data import (
    MARK,
    Cells,
    dealt,
    joined,
    marked,
    pixels_of,
    random_boxes,
    shuffled_boxes,
    shuffled_pixels,
    split,
    write_image,
    write_manifests,
)


@pytest.fixture
def rows(tmp_path: Path) -> list[Cells]:
    """Ten images of two sizes, eight of them with a box of its own width."""
    found = []
    for n in range(10):
        side = 100 if n % 2 else 200
        pixels = np.random.default_rng(n).integers(0, 256, (side, side, 3)).astype(np.uint8)
        path = write_image(tmp_path / "images" / f"{n}.png", pixels)
        boxes = joined([(10, 10, 20 + n, 40)]) if n < 8 else ""
        found.append({"path": path, "label": "ab"[n % 2], "patient": f"p{n // 2}", "split": "train", "boxes": boxes})
    return found


def test_random_boxes_keep_their_sizes_and_lie_inside(rows: list[Cells], tmp_path: Path) -> None:
    moved = random_boxes(rows, tmp_path)
    assert [row["path"] for row in moved] == [row["path"] for row in rows]
    assert [row["boxes"] for row in moved[8:]] == ["", ""]
    for n in range(8):
        (x1, y1, x2, y2), side = split(moved[n]["boxes"])[0], 100 if n % 2 else 200
        assert (x2 - x1, y2 - y1) == (10 + n, 30)
        assert 0 <= x1 < x2 <= side
        assert 0 <= y1 < y2 <= side
    assert any(moved[n]["boxes"] != rows[n]["boxes"] for n in range(8))


def test_shuffled_boxes_are_those_of_other_images_in_their_scale(rows: list[Cells], tmp_path: Path) -> None:
    def shares(row: Cells) -> tuple[float, ...]:
        side = pixels_of(row).shape[0]
        return tuple(round(edge / side, 2) for edge in split(row["boxes"])[0])

    moved = shuffled_boxes(rows, tmp_path)
    own, given = [shares(row) for row in rows[:8]], [shares(row) for row in moved[:8]]
    assert all(before != after for before, after in zip(own, given, strict=True))
    for box in given:
        assert min(np.abs(np.subtract(box, other)).max() for other in own) <= 0.011  # whole pixels


def test_shuffled_pixels_have_one_order_for_all_images(rows: list[Cells], tmp_path: Path) -> None:
    one, other = (pixels_of(row) for row in shuffled_pixels(rows[:2], tmp_path / "shuffled"))
    plain = [cv2.resize(pixels_of(row), one.shape[:2], interpolation=cv2.INTER_AREA) for row in rows[:2]]
    np.testing.assert_array_equal(np.sort(one.reshape(-1, 3), axis=0), np.sort(plain[0].reshape(-1, 3), axis=0))
    place = np.flatnonzero((plain[0].reshape(-1, 3) == one[0, 0]).all(axis=1))
    assert (plain[1].reshape(-1, 3)[place] == other[0, 0]).all(axis=1).any()


def test_patients_are_dealt_to_folds_evenly(rows: list[Cells]) -> None:
    folds = dealt([{**row, "patient": row["path"]} for row in rows], 3)
    assert sorted(row["fold"] for row in folds) == list("0000111222")
    together = dealt(rows, 3)
    assert all(len({row["fold"] for row in together if row["patient"] == name}) == 1 for name in ("p0", "p1", "p2"))


def test_every_row_is_tested_once(rows: list[Cells], tmp_path: Path) -> None:
    paths = write_manifests(lambda data, folder, seed: dealt(rows, 3), tmp_path, tmp_path / "task", 0)
    assert [path.name for path in paths] == ["manifest-0.csv", "manifest-1.csv", "manifest-2.csv"]
    tested = [line for path in paths for line in path.read_text().splitlines() if ",test," in line]
    assert len(tested) == len(set(tested)) == 10


def test_marks_are_alike_in_blocks_of_four_pixels() -> None:
    tissue = np.full((1600, 1600, 3), 200, np.uint8)
    for label in ("checks", "stripes"):
        field, boxes = marked(tissue, label, np.random.default_rng(0))
        for x1, y1, x2, y2 in boxes:
            assert (x2 - x1, y2 - y1) == (MARK, MARK)
            blocks = field[y1:y2, x1:x2].reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
            assert np.ptp(blocks.reshape(-1, 3), axis=0).max() == 0
