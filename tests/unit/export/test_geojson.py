"""GeoJSON by QuPath's schema: what is written reads back to the very same rectangles."""

import itertools
import json
import uuid
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_attn.annotations.geojson import write_features
from wsi_attn.export.geojson import attended_features, tile_features
from wsi_attn.export.source import Tiles
from wsi_attn.geometry import ORIGIN, Frame, Size
from wsi_attn.heatmaps.colour import lookup_table
from wsi_attn.store.prediction_maps import AttentionMap
from wsi_attn.store.predictions import SlidePrediction
from wsi_attn.store.records import AttendedRegion


def prediction_of(regions, fingerprint="f" * 64):
    return SlidePrediction(
        slide="case_07",
        size0=Size(100_000, 80_000),
        label="tumour",
        probabilities={"normal": 0.25, "tumour": 0.75},
        uncertainty={},
        tissue_fraction=0.4,
        unreadable_tiles=0,
        attention=tuple(regions),
        model={"name": "deep-attention", "sha256": "0" * 64},
        mpp=(0.25, 0.25),
        seconds=1.0,
        software={},
        attention_map=AttentionMap(Frame(Size(2, 2), 50_000, 40_000), np.ones((2, 2), np.float32) / 4),
        fingerprint=fingerprint,
    )


def read_regions(collection):
    """An independent reader: polygons back to (x, y, width, height, weight), refusing what is no closed rectangle."""
    assert collection["type"] == "FeatureCollection"
    found = []
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == 5
        assert ring[0] == ring[-1]
        xs, ys = sorted({x for x, _ in ring}), sorted({y for _, y in ring})
        assert sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring)) > 0
        weight = feature["properties"]["measurements"]["attention"]
        found.append(AttendedRegion(xs[0], ys[0], xs[1] - xs[0], ys[1] - ys[0], weight))
    return tuple(found)


regions = st.builds(
    AttendedRegion,
    x=st.integers(-500, 2**31),
    y=st.integers(-500, 2**31),
    width=st.integers(1, 10_000),
    height=st.integers(1, 10_000),
    weight=st.floats(0, 1),
)


@settings(deadline=None)
@given(st.lists(regions, max_size=8))
def test_regions_survive_the_round_trip_exactly(attended):
    prediction = prediction_of(attended)
    collection = {"type": "FeatureCollection", "features": attended_features(prediction)}
    text = json.dumps(collection, allow_nan=False)
    assert read_regions(json.loads(text)) == prediction.attention


def test_the_file_holds_what_the_function_returns(tmp_path):
    prediction = prediction_of([AttendedRegion(10, 20, 512, 256, 0.7), AttendedRegion(0, 0, 512, 512, 0.3)])
    features = attended_features(prediction)
    write_features(tmp_path / "new" / "case_07.geojson", features, ORIGIN)
    written = json.loads((tmp_path / "new" / "case_07.geojson").read_text())
    assert written.pop("wsi_attn")["offset"] == [0, 0]
    assert written == {"type": "FeatureCollection", "features": features}


def test_a_feature_is_a_qupath_annotation():
    (feature,) = attended_features(prediction_of([AttendedRegion(10, 20, 30, 40, 1.0)]))
    properties = feature["properties"]
    assert feature["geometry"]["coordinates"] == [[[10, 20], [40, 20], [40, 60], [10, 60], [10, 20]]]
    assert properties["objectType"] == "annotation"
    assert properties["name"] == "Attention 1"
    assert set(properties["classification"]) == {"name", "color"}
    assert len(properties["classification"]["color"]) == 3
    assert properties["measurements"] == {
        "attention": 1.0,
        "rank": 1,
        "probability: normal": 0.25,
        "probability: tumour": 0.75,
    }
    assert all(isinstance(value, str) for value in properties["metadata"].values())


def test_ids_follow_from_slide_and_rectangle_alone():
    first, second = AttendedRegion(0, 0, 10, 10, 0.6), AttendedRegion(5, 0, 10, 10, 0.4)

    def ids(*attended, fingerprint="f" * 64):
        return [feature["id"] for feature in attended_features(prediction_of(attended, fingerprint))]

    assert ids(first, second) == ids(replace(second, weight=0.9), replace(first, weight=0.1))[::-1]
    assert len({*ids(first, second), *ids(first, fingerprint="e" * 64)}) == 3
    assert uuid.UUID(ids(first)[0]).version == 5


def test_no_regions_give_an_empty_collection(tmp_path):
    assert write_features(tmp_path / "none.geojson", attended_features(prediction_of([])), ORIGIN) == 0
    assert json.loads((tmp_path / "none.geojson").read_text())["features"] == []


QUPATH_TYPES = {"annotation", "detection", "tile", "cell", "tmaCore", "root"}


def accepted_by_qupath(feature):
    """QuPath's rules for one object, from its documentation: refuse what it would not read as meant."""
    properties = feature["properties"]
    assert feature["type"] == "Feature"
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    assert properties["objectType"] in QUPATH_TYPES
    for colour in (properties["classification"]["color"], properties.get("color", [0, 0, 0])):
        assert len(colour) == 3
        assert all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
    assert isinstance(properties["classification"]["name"], str)
    assert all(isinstance(name, str) and np.isfinite(value) for name, value in properties["measurements"].items())
    for ring in feature["geometry"]["coordinates"]:
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
    return True


def tiles_of(values, **more):
    boxes = np.array([(10.4 * i, 20.6 * i, 10.4, 20.6) for i in range(len(values))], np.float64).reshape(-1, 4)
    return Tiles(boxes, {"shown": np.array(values, np.float64), **more})


@pytest.mark.parametrize("kind", ["annotation", "detection"])
def test_every_object_is_as_qupath_reads_it(kind):
    prediction = prediction_of([AttendedRegion(10, 20, 30, 40, 1.0)])
    assert all(map(accepted_by_qupath, attended_features(prediction, kind)))
    tiles = tiles_of([0.5, np.nan, -2, 7], other=np.array([1, 2, np.nan, 4]))
    assert all(map(accepted_by_qupath, tile_features("f", tiles, "shown", 9, "viridis", kind)))


def test_the_highest_tiles_come_first_and_nan_never():
    tiles = tiles_of([0.5, np.nan, -2, 7], other=np.array([1, 2, np.nan, 4]))
    found = list(tile_features("f" * 64, tiles, "shown", 2, "viridis"))
    assert [feature["properties"]["measurements"]["shown"] for feature in found] == [7, 0.5]
    assert found[0]["properties"]["color"] == lookup_table("viridis")[255].tolist()
    assert found[0]["geometry"]["coordinates"][0][0] == [31, 62]  # rounded to level-0 pixels
    everything = list(tile_features("f" * 64, tiles, "shown", 99, "viridis"))
    assert len({feature["id"] for feature in everything}) == 3
    assert "other" not in everything[-1]["properties"]["measurements"]


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [3.0, 3.0]])
def test_few_or_equal_tiles(values, tmp_path):
    features = tile_features("f", tiles_of(values), "shown", 5, "viridis")
    assert write_features(tmp_path / "t.geojson", features, ORIGIN, {"made": "mark"}) == np.isfinite(values).sum()
    collection = json.loads((tmp_path / "t.geojson").read_text())
    assert (collection["type"], collection["wsi_attn"]["made"]) == ("FeatureCollection", "mark")
