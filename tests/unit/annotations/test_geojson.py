"""The reader and the writer of GeoJSON: classes, colours, repaired polygons, parts."""

from __future__ import annotations

import json
import uuid

import pytest
from shapely import Polygon

from wsi_attn.annotations.geojson import PathClass, feature, read_annotations, write_features
from wsi_attn.geometry import Point

CROSSED = [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]
SQUARE = [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]


@pytest.fixture
def read(tmp_path):
    def save(*features):
        (tmp_path / "x.geojson").write_text(json.dumps(features))
        return read_annotations(tmp_path / "x.geojson")

    return save


def drawn(coordinates, **properties):
    geometry = {"type": "Polygon", "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def test_a_polygon_whose_lines_cross_becomes_the_parts_it_covers(read):
    (found,) = read(drawn(CROSSED))
    assert sorted(polygon.area for polygon in found.polygons) == [25, 25]
    assert all(polygon.is_valid and polygon.exterior.is_ccw for polygon in found.polygons)


def test_a_polygon_without_area_is_none(read):
    (found,) = read(drawn([[[0, 0], [4, 0], [8, 0], [0, 0]]]))
    assert found.polygons == ()


def test_name_class_and_colour_of_children_too(read):
    parent = drawn(SQUARE, name="outer", classification={"name": "Tumor", "color": [200, 0, 0]})
    parent["properties"]["childObjects"] = [drawn(SQUARE, name="inner", color=[1, 2, 3]), drawn(SQUARE)]
    assert [(each.name, each.class_name, each.colour) for each in read(parent)] == [
        ("outer", "Tumor", (200, 0, 0)),
        ("inner", "", (1, 2, 3)),
        ("", "", None),
    ]


def test_parts_and_holes_are_written_shifted_and_read_back(tmp_path):
    ring = [(10.5, 20), (30.25, 20), (30.25, 40), (10.5, 40)]
    hole = [(15, 25), (15, 30), (20, 30), (20, 25)]
    several = [Polygon(ring, [hole]), Polygon([(50, 50), (60, 50), (60, 60)])]
    made = feature(several, uuid.UUID(int=1), "annotation", PathClass("A", (1, 2, 3)), {"area": 1.0})
    origin = Point(7, 9)
    assert write_features(tmp_path / "x.geojson", [made], origin, {"made": "test"}) == 1
    document = json.loads((tmp_path / "x.geojson").read_text())
    assert document["wsi_attn"]["offset"] == [7, 9]
    assert document["features"][0]["geometry"]["type"] == "MultiPolygon"
    assert document["features"][0]["geometry"]["coordinates"][0][0][0] == [3.5, 11]
    (found,) = read_annotations(tmp_path / "x.geojson", Point(1000, 1000))
    assert [polygon.equals(other) for polygon, other in zip(found.polygons, several, strict=True)] == [True, True]
