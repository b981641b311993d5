"""Comparing a slide with its mask: the whole of it or its regions, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.slides import ArraySlide, stained
from tests.unit.tasks.segmentation.networks import checkpoint, tiny
from wsi_attn.data.manifest import Row
from wsi_attn.data.sources import SlidePatches
from wsi_attn.errors import ManifestError
from wsi_attn.evaluate.segmentation import count_pixels
from wsi_attn.geometry import Region
from wsi_attn.tasks.base import EvaluationJob, add_rows
from wsi_attn.tasks.config import EvaluateConfig
from wsi_attn.tasks.segmentation import evaluation
from wsi_attn.tasks.segmentation.evaluation import SegmentationEvaluation, compare
from wsi_attn.tasks.segmentation.tiled_inference import TiledInference

PIXELS = stained(150, 110)
SLIDE = ArraySlide(PIXELS)
MASK = (PIXELS[..., 1] < 200).astype(np.uint8) + (PIXELS[..., 1] < 110)


@pytest.fixture
def row(tmp_path: Path) -> Row:
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    return Row(tmp_path / "x.png", "", "p1", "test", None, 2, mask=tmp_path / "mask.png")


def with_regions(row: Row, *corners: tuple[int, int, int, int]) -> Row:
    rings = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]] for x0, y0, x1, y1 in corners]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}} for ring in rings
    ]
    path = row.path.with_name("regions.geojson")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return Row(row.path, "", "p1", "test", None, 2, mask=row.mask, regions=path)


def test_what_is_counted_is_what_segment_answers(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoint(tiny())
    monkeypatch.setattr(evaluation, "BLOCK", 64)  # block by block or at once is the same
    found = compare(SLIDE, row, tiny(), model.spec, workers=1)
    answer = TiledInference(tiny(), SlidePatches(SLIDE, None, 1), 64, 32, workers=1).answer(Region(0, 0, 150, 110))
    wanted = count_pixels(answer.classes, MASK, 3, np.ones(MASK.shape, np.bool_))
    np.testing.assert_array_equal(found.table, wanted.table)
    np.testing.assert_array_equal(found.confusion, wanted.confusion)


def test_of_a_row_with_regions_their_bounding_box_is_looked_at_and_they_are_counted(row: Row) -> None:
    model = checkpoint(tiny())
    found = compare(SLIDE, with_regions(row, (10, 20, 60, 70)), tiny(), model.spec, workers=1)
    assert found.confusion.sum() == 50 * 50
    np.testing.assert_array_equal(found.confusion.sum(axis=1), np.bincount(MASK[20:70, 10:60].ravel(), minlength=3))


def test_regions_of_an_image_mask_leave_the_rest_without_label(row: Row) -> None:
    two = with_regions(row, (10, 20, 30, 40), (60, 20, 80, 40))
    found = compare(SLIDE, two, tiny(), checkpoint(tiny()).spec, workers=1)
    assert found.confusion.sum() == 2 * 20 * 20


def test_a_field_that_is_too_large_is_refused(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_PIXELS", 10_000)
    with pytest.raises(ManifestError, match=r"row 2: .* is 150 x 110 px .*column `regions`"):
        compare(SLIDE, row, tiny(), checkpoint(tiny()).spec)


def test_a_row_that_fails_is_in_none_of_the_figures(row: Row) -> None:
    bad = Row(row.path, "", "p2", "test", None, 3)
    spec = checkpoint(tiny()).spec
    job = EvaluationJob(row.path.parent / "m.csv", EvaluateConfig(), workers=1)
    evaluation = SegmentationEvaluation(tiny(), spec, job, {"name": "m"})
    failures = add_rows(evaluation, [row, bad], lambda _: SLIDE)
    assert [found_row.number for found_row, _ in evaluation.found] == [2]
    report = evaluation.report(failures).record()
    assert report["n"] == 1
    assert report["unanswered"] == [str(failures[0])]
    assert set(report["learned_attention"]) == {"2", "4", "8", "16", "32"}
    header, line = evaluation.table()
    names = ["dice", "iou", "boundary_f", "object_f1"]
    assert header[:7] == ["path", "patient", *(f"{name}:cell" for name in names), "dice:gland"]
    assert header[-6:] == [f"{name}:{label}" for label in ("cell", "gland") for name in ("tp", "fp", "fn")]
    assert line[:2] == ["x.png", "p1"]
    assert 0 < float(line[2]) < 1
