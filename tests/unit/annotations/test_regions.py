"""Boxes, polygons and masks of a manifest as rasters, and everything that is wrong with them."""

import json

import cv2
import numpy as np
import pytest

from wsi_attn.annotations.regions import region_mask
from wsi_attn.data.manifest import read_manifest
from wsi_attn.errors import ManifestError
from wsi_attn.geometry import Size

SIZE = Size(100, 80)


def row_of(tmp_path, column, text):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((SIZE.height, SIZE.width), np.uint8))
    (tmp_path / "m.csv").write_text(f'path,label,{column}\na.png,x,"{text}"\n')
    return read_manifest(tmp_path / "m.csv")[0]


def voc(*boxes, size=""):
    objects = "".join(
        "<object><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation>{size}{objects}</annotation>"


SIZE_OF = "<size><width>{}</width><height>{}</height></size>"


def coco(*boxes, name="a.png", size=None):
    return json.dumps(
        {
            "images": [{"id": 3, "file_name": f"images/{name}", **(size or {})}, {"id": 4, "file_name": "b.png"}],
            "annotations": [{"image_id": 3, "bbox": box} for box in boxes] + [{"image_id": 4, "bbox": [0, 0, 9, 9]}],
        }
    )


def geojson(*boxes):
    def ring(x1, y1, x2, y2):
        return [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]

    return json.dumps(
        [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring(*box)]}} for box in boxes]
    )


WANTED = np.zeros((80, 100), bool)
WANTED[20:30, 10:40] = WANTED[60:80, 90:100] = True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "10 20 40 30; 90 60 100 80"),
        ("b.xml", voc((10, 20, 40, 30), (90, 60, 100, 80))),
        ("b.xml", voc((10, 20, 40, 30), (90, 60, 100, 80), size=SIZE_OF.format(100, 80))),
        ("b.xml", voc((10, 20, 40, 30), (90, 60, 100, 80), size=SIZE_OF.format(0, 0))),
        ("b.json", coco([10, 20, 30, 10], [90, 60, 10, 20])),
    ],
)
def test_boxes_in_every_notation_are_the_same(tmp_path, name, text):
    if name:
        (tmp_path / name).write_text(text)
    row = row_of(tmp_path, "boxes", name or text)
    assert np.array_equal(region_mask(row, SIZE, (80, 100)), WANTED)
    coarse = region_mask(row, SIZE, (8, 10))
    assert np.array_equal(coarse, WANTED.reshape(8, 10, 10, 10).any(axis=(1, 3)))


@pytest.mark.parametrize("name", ["b.geojson", "b.json"])
def test_polygons_are_filled_and_small_ones_are_not_lost(tmp_path, name):
    (tmp_path / name).write_text(geojson((10, 20, 40, 30), (55, 55, 57, 57)))
    row = row_of(tmp_path, "boxes", name)
    fine = region_mask(row, SIZE, (80, 100))
    assert fine[20:30, 10:40].all()
    assert region_mask(row, SIZE, (4, 5))[2, 2]


def test_a_mask_may_be_drawn(tmp_path):
    (tmp_path / "b.geojson").write_text(geojson((10, 20, 40, 30)))
    found = [region_mask(row_of(tmp_path, column, "b.geojson"), SIZE, (80, 100)) for column in ("boxes", "mask")]
    assert found[0].any()
    assert np.array_equal(*found)


@pytest.mark.parametrize("shape", [(80, 100), (8, 10), (7, 9), (160, 200), (240, 330)])
def test_masks_keep_every_marked_pixel(tmp_path, shape):
    marked = np.zeros((80, 100), np.uint16)
    marked[33, 47] = 300
    marked[70:75, 3:9] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), marked)
    found = region_mask(row_of(tmp_path, "mask", "mask.png"), SIZE, shape)
    assert found.shape == shape
    assert found[(33 * shape[0]) // 80, (47 * shape[1]) // 100]
    assert found[(72 * shape[0]) // 80, (5 * shape[1]) // 100]
    assert found.mean() < 0.2


def test_a_row_that_marks_nothing(tmp_path):
    assert region_mask(row_of(tmp_path, "boxes", ""), SIZE, (8, 10)) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 2 3", "row 2: box 1 .* is not four numbers"),
        ("1 2 3 4; 5 6 x 8", "row 2: box 2 .* is not four numbers"),
        ("1 2 nan 4", "is not four numbers"),
        ("30 2 20 8", "row 2: box 1 .* empty or inverted"),
        ("10 2 10 8", "empty or inverted"),
        ("gone.xml", "row 2: boxes file not found: .*gone.xml"),
    ],
)
def test_boxes_that_are_none_are_refused_with_the_manifest(tmp_path, text, said):
    with pytest.raises(ManifestError, match=said) as caught:
        row_of(tmp_path, "boxes", text)
    assert "m.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("", "90 60 101 80", "reaches outside .*a.png, which is 100 x 80"),
        ("", "-1 60 50 80", "reaches outside"),
        ("b.xml", voc((5, 5, 5, 5)), "b.xml: box 1 .* empty or inverted"),
        ("b.xml", voc((5, 5, 500, 50)), "b.xml: box 1 .* reaches outside"),
        ("b.xml", voc(("", 5, 50, 50)), "box 1 lacks one of xmin"),
        ("b.xml", "<annotation>", "not XML"),
        (
            "b.xml",
            voc((5, 5, 9, 9), size=SIZE_OF.format(50, 40)),
            "belong to an image of 50 x 40 px, but .*a.png is 100",
        ),
        ("b.xml", voc((5, 5, 9, 9), size=SIZE_OF.format("wide", 40)), "is not a valid image size"),
        (
            "b.json",
            coco([1, 2, 3, 4], size={"width": 200, "height": 160}),
            "b.json: the boxes belong to .* 200 x 160",
        ),
        ("b.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "not an accepted VOC file"),
        ("b.json", "{", "cannot be read as JSON"),
        ("b.json", coco([5, 5, 0, 9]), "b.json: box 1 .* empty or inverted"),
        ("b.json", coco([1, 2, 3]), "not COCO"),
        ("b.json", coco([1, 2, 3, 4], name="c.png"), "no entry for the image a.png"),
        ("b.geojson", geojson((50, 50, 150, 60)), "b.geojson reaches outside"),
        ("b.geojson", "[3]", "feature 1"),
    ],
)
def test_boxes_that_do_not_fit_are_refused_with_row_and_file(tmp_path, name, text, said):
    if name:
        (tmp_path / name).write_text(text)
    row = row_of(tmp_path, "boxes", name or text)
    with pytest.raises(ManifestError, match=said) as caught:
        region_mask(row, SIZE, (8, 10))
    assert "row 2" in str(caught.value)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), np.zeros((50, 50), np.uint8))
    with pytest.raises(ManifestError, match="must cover the whole image"):
        region_mask(row_of(tmp_path, "mask", "mask.png"), SIZE, (8, 10))
    (tmp_path / "mask.png").write_text("no image")
    with pytest.raises(ManifestError, match=r"row 2: mask .* cannot be read"):
        region_mask(row_of(tmp_path, "mask", "mask.png"), SIZE, (8, 10))


def test_faulty_boxes_of_a_real_set_are_named(collection):
    index = collection("boxes/bccd/index.csv")
    faulty, checked = [], 0
    for row in read_manifest(index):
        if row.boxes.endswith(("00338.xml", "00343.xml", "00001.xml")):
            checked += 1
            try:
                assert region_mask(row, Size(640, 480), (48, 64)).any()
            except ManifestError as error:
                faulty.append(str(error))
    assert checked - len(faulty) == 1
    assert all("empty or inverted" in said and ".xml" in said for said in faulty)
