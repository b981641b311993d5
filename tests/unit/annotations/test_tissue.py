"""GeoJSON: what is written is read back, what QuPath writes is read, what is broken is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wsi_attn.annotations.tissue import (
    features_digest,
    read_regions,
    tissue_features,
    tissue_from_geojson,
    tissue_polygons,
)
from wsi_attn.errors import TissueError
from wsi_attn.geometry import Frame, Mpp, Size
from wsi_attn.tissue.mask import TissueMask

FRAME, SIZE0 = Frame(Size(8, 6), 15.9, 16.3), Size(123, 97)
SQUARE = [[[16, 16], [80, 16], [80, 80], [16, 80], [16, 16]]]
WHOLE = Frame(Size(100, 100), 1.0, 1.0)


def mask_of(raster):
    return TissueMask(raster, FRAME, "otsu", "chroma", 20, np.ones_like(raster), SIZE0)


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def square(name=None, corner=16, side=64):
    a, b = corner, corner + side
    ring = [[a, a], [b, a], [b, b], [a, b], [a, a]]
    classification = {"classification": {"name": name, "color": [0, 0, 0]}} if name else {}
    return feature({"type": "Polygon", "coordinates": [ring]}, objectType="annotation", **classification)


@pytest.fixture
def write(tmp_path):
    def save(document):
        path = tmp_path / "drawn.geojson"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return save


@pytest.mark.parametrize("seed", range(8))
def test_written_masks_are_read_back_exactly(seed, write):
    raster = np.random.default_rng(seed).random((6, 8)) > 0.4
    features = tissue_features(mask_of(raster), "f", None)
    back = tissue_from_geojson(write(features), FRAME, SIZE0)
    np.testing.assert_array_equal(back.mask, raster)
    assert (back.method, back.measure, back.threshold) == ("file", "chroma", 14)
    areas = [item["properties"]["measurements"]["area px²"] for item in features]
    assert areas == sorted(areas, reverse=True)
    assert sum(areas) == pytest.approx(mask_of(raster).fraction * SIZE0.width * SIZE0.height, rel=1e-5)


def test_a_feature_is_what_qupath_writes():
    raster = np.zeros((6, 8), bool)
    raster[1:5, 1:5] = True
    raster[2, 2] = False
    (item,) = tissue_features(mask_of(raster), "abc", Mpp(0.5, 0.25))
    properties = item["properties"]
    assert (item["type"], item["geometry"]["type"]) == ("Feature", "Polygon")
    assert properties["objectType"] == "annotation"
    assert properties["classification"]["name"] == "Tissue"
    assert len(properties["classification"]["color"]) == 3
    assert properties["measurements"]["area µm²"] == pytest.approx(15 * 15.9 * 16.3 * 0.125)
    exterior, hole = item["geometry"]["coordinates"]
    assert exterior[0] == exterior[-1] == [15.9, 16.3]
    assert hole[0] == hole[-1]
    assert item["id"] == tissue_features(mask_of(raster), "abc", None)[0]["id"]
    assert item["id"] != tissue_features(mask_of(raster), "abd", None)[0]["id"]


def test_simplified_polygons_have_fewer_corners():
    raster = np.tri(6, 8, dtype=bool)
    (exact,) = tissue_polygons(mask_of(raster))
    (fewer,) = tissue_polygons(mask_of(raster), tolerance=16.0)
    assert len(fewer.exterior.coords) < len(exact.exterior.coords)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [square()]},
        [square()],
        square(),
        [feature({"type": "MultiPolygon", "coordinates": [SQUARE]})],
        [{**square("Tumor"), "nucleusGeometry": None, "id": "x"}],
        [square("Tissue"), feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, name="ruler")],
        [square(), feature({"type": "Point", "coordinates": [3, 3]}), feature(None)],
        [feature({"type": "GeometryCollection", "geometries": [square()["geometry"]]})],
        [{**square(), "properties": None}],
        [feature({"type": "Polygon", "coordinates": [[*SQUARE[0][:-1]]]})],  # not closed
        [feature({"type": "Polygon", "coordinates": [SQUARE[0][::-1]]}, classification="Tissue")],
        [feature(None, childObjects=[square()])],
        [feature({"type": "Polygon", "coordinates": [[[*corner, 0.0] for corner in SQUARE[0]]]})],
    ],
)
def test_what_qupath_and_others_write_is_read(document, write):
    expected = np.zeros((100, 100), bool)
    expected[16:80, 16:80] = True
    np.testing.assert_array_equal(tissue_from_geojson(write(document), WHOLE, Size(100, 100)).mask, expected)


def test_lines_and_points_are_counted(write):
    lines = [feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}), feature(None)]
    regions = read_regions(write([square(), *lines]))
    assert (len(regions.tissue), len(regions.background), regions.ignored) == (1, 0, 2)


@pytest.mark.parametrize("name", ["Ignore*", "ignore", "Background", "Glass", "glass: bubble", "BACKGROUND"])
def test_regions_that_are_no_tissue_are_taken_out_whatever_their_order(name, write):
    inner = square(name, 32, 16)
    found = [
        tissue_from_geojson(write(document), WHOLE, Size(100, 100)).mask
        for document in ([square(), inner], [inner, square("Stroma")])
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].sum() == 64 * 64 - 16 * 16
    assert not found[0][32:48, 32:48].any()


def test_names_of_derived_classes(write):
    out = feature(square(None, 32, 16)["geometry"], classification={"names": ["Ignore*", "fold"], "color": [1, 2, 3]})
    assert len(read_regions(write([square(), out])).background) == 1


def test_an_empty_file_is_no_tissue(write):
    found = tissue_from_geojson(write({"type": "FeatureCollection", "features": []}), WHOLE, Size(100, 100))
    assert found.fraction == 0


def test_the_rule_is_fitted_to_the_pixels_of_the_view(write):
    pixels = np.full((100, 100, 3), 240, np.uint8)
    pixels[16:80, 16:80] = (200, 120, 190)
    readable = np.ones((100, 100), bool)
    readable[:, :30] = False
    found = tissue_from_geojson(write([square()]), WHOLE, Size(100, 100), pixels=pixels, readable=readable)
    # All three measures tell these two colours apart, and chroma is the first of them.
    assert found.measure == "chroma"
    assert 10 < found.threshold < 80
    assert not found.mask[:, :30].any()


BROKEN = {
    "not JSON": ("{", "is not JSON"),
    "binary": ("\0\1\2", "is not JSON"),
    "number": ("3", "not GeoJSON"),
    "other object": ({"type": "Topology"}, "not GeoJSON"),
    "no list": ({"type": "FeatureCollection", "features": {}}, "not GeoJSON"),
    "no feature": ([square(), {"type": "Polygon"}], "feature 2: expected an object of type Feature"),
    "text in place": ([square(), square(), 7], "feature 3: "),
    "geometry": ([square(), feature("Polygon")], "feature 2: its geometry is not an object"),
    "unknown": ([feature({"type": "Circle", "coordinates": []})], "feature 1: unknown geometry 'Circle'"),
    "no coordinates": ([feature({"type": "Polygon"})], "feature 1: a Polygon has no coordinates"),
    "flat": ([feature({"type": "Polygon", "coordinates": [[1, 2], [3, 4]]})], "feature 1: a position"),
    "two corners": ([feature({"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [0, 0]]]})], "3 corners"),
    "text": ([feature({"type": "Polygon", "coordinates": [[[0, 0], ["a", 5], [9, 0]]]})], "two finite numbers"),
    "NaN": ('[{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[NaN,0],[1,0],[1,1]]]}}]', "feature 1"),
    "properties": ([{**square(), "properties": 3}], "feature 1: its properties"),
    "child": ([feature(None, childObjects=[square(), 3])], "feature 1.2: "),
    "lines only": ([feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]})], "none of its 1 features"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_with_the_feature(case, write):
    document, message = BROKEN[case]
    path = write(document)
    with pytest.raises(TissueError) as error:
        read_regions(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_regions_of_another_slide_and_nothing_but_background(write, tmp_path):
    with pytest.raises(TissueError, match="no region lies on the slide"):
        tissue_from_geojson(write([square(None, 500)]), WHOLE, Size(100, 100))
    with pytest.raises(TissueError, match="no region is classified as tissue"):
        tissue_from_geojson(write([square("Glass")]), WHOLE, Size(100, 100))
    with pytest.raises(TissueError, match="Cannot read"):
        tissue_from_geojson(tmp_path / "none.geojson", WHOLE, Size(100, 100))


def test_digest_changes_with_the_features():
    assert features_digest([square()]) == features_digest([dict(reversed(square().items()))])
    assert features_digest([square()]) != features_digest([square("Tumor")])
    assert features_digest([square()]) != features_digest([square(), square()])
