"""Objects found block by block against those of the label image as a whole, and their way through GeoJSON."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_attn.annotations.geojson import write_features
from wsi_attn.annotations.masks import Classes, Window, open_mask
from wsi_attn.annotations.polygons import Polygon, rings_of, trace_polygons
from wsi_attn.data.manifest import Row
from wsi_attn.geometry import ORIGIN, Frame, Mpp, Size
from wsi_attn.slide import SlideInfo
from wsi_attn.tasks.segmentation import labels as labels_module
from wsi_attn.tasks.segmentation import objects as objects_module
from wsi_attn.tasks.segmentation.labels import LabelImage
from wsi_attn.tasks.segmentation.objects import AreaCounts, SegmentedObject, features, find_objects

NAMES = ("background", "cell", "gland")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "BLOCK", 16)


def blobs(height: int, width: int, seed: int, size: int = 5) -> NDArray[np.uint8]:
    """Smooth random classes."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), size / 2).argmax(axis=2).astype(np.uint8)


def label_image(folder: Path, classes: NDArray[np.uint8], downsample: float = 1.0) -> LabelImage:
    size = Size(classes.shape[1], classes.shape[0])
    image = LabelImage(folder / "x.zarr", Frame(size, downsample, downsample), None, NAMES, {})
    image.discard()
    image.open()
    for block in image.blocks():
        image.write(block, classes[block.y : block.y1, block.x : block.x1])
    image.downsample()
    return image


def info(mpp: Mpp | None) -> SlideInfo:
    return SlideInfo(Path("x.png"), "", "", Size(1, 1), (), mpp, fingerprint="f")


def shape_of(polygon: Polygon) -> tuple[object, ...]:
    """A polygon whatever corner its rings begin at."""

    def turned(ring: NDArray[np.float64]) -> tuple[object, ...]:
        corners = [tuple(corner) for corner in ring.tolist()]
        first = corners.index(min(corners))
        return tuple(corners[first:] + corners[:first])

    exterior, *holes = rings_of(polygon)
    return turned(exterior), frozenset(turned(hole) for hole in holes)


def found_in(image: LabelImage, size0: Size) -> tuple[list[SegmentedObject], AreaCounts]:
    counts = AreaCounts(len(NAMES))
    return list(find_objects(image, size0, counts)), counts


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 1000), size=st.integers(1, 12))
def test_block_by_block_equals_as_a_whole(height: int, width: int, seed: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch, __import__("tempfile").TemporaryDirectory() as folder:
        patch.setattr(labels_module, "BLOCK", 16)
        classes = blobs(height, width, seed, size)
        found, counts = found_in(label_image(Path(folder), classes), Size(width, height))
    for label in (1, 2):
        ours = [each for each in found if each.label == label]
        frame = Frame(Size(width, height), 1.0, 1.0)
        wanted = trace_polygons(classes == label, frame, Size(width, height))
        assert {shape_of(polygon) for each in ours for polygon in each.polygons} == set(map(shape_of, wanted))
        assert len(ours) == len(wanted) == counts.objects[label]
        assert sum(each.pixels for each in ours) == (classes == label).sum() == counts.pixels[label]
        assert sorted(each.pixels for each in ours) == sorted(round(polygon.area) for polygon in wanted)


@pytest.mark.usefixtures("small_blocks")
def test_an_object_too_large_to_be_outlined_finely_keeps_its_area(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "MAX_TRACED", 500)
    monkeypatch.setattr(labels_module, "SMALLEST", 8)
    classes = np.zeros((64, 64), np.uint8)
    classes[6:50, 8:60] = 1
    classes[20:30, 20:30] = 0
    (found,), _ = found_in(label_image(tmp_path, classes), Size(64, 64))
    assert found.pixels == 44 * 52 - 100
    (polygon,) = found.polygons
    assert len(polygon.interiors) == 1
    assert polygon.area == pytest.approx(found.pixels, rel=0.15)


@pytest.mark.usefixtures("small_blocks")
def test_polygons_of_a_file_give_the_label_image_back(tmp_path: Path) -> None:
    classes = blobs(50, 70, 4)
    image = label_image(tmp_path, classes, downsample=2.5)
    size0 = Size(175, 125)
    found, _ = found_in(image, size0)
    path = tmp_path / "x.geojson"
    mpp = Mpp(0.5, 0.4)
    count = write_features(path, features(iter(found), NAMES, info(mpp), 6.25, "detection", 0.0), ORIGIN)
    collection = json.loads(path.read_text())["features"]
    assert count == len(found) == len(collection)
    total = sum(feature["properties"]["measurements"]["area µm²"] for feature in collection)
    assert total == pytest.approx((classes > 0).sum() * 6.25 * 0.2)
    assert len({feature["id"] for feature in collection}) == count
    assert any(len(feature["geometry"]["coordinates"]) > 1 for feature in collection), "no hole to keep"
    row = Row(tmp_path / "x.png", "", "p", "", None, 2, mask=path)
    mask = open_mask(row, Classes(NAMES), size0)
    np.testing.assert_array_equal(mask.read(Window(0, 0, 70, 50, 2.5, 2.5)), classes)


@pytest.mark.usefixtures("small_blocks")
def test_fewer_corners_where_they_are_wanted(tmp_path: Path) -> None:
    found, _ = found_in(label_image(tmp_path, blobs(60, 60, 5, 9)), Size(60, 60))

    def corners(simplify: float) -> int:
        made = features(iter(found), NAMES, info(None), 1.0, "annotation", simplify)
        return sum(len(ring) for feature in made for ring in feature["geometry"]["coordinates"])

    assert corners(1.5) < 0.6 * corners(0)
