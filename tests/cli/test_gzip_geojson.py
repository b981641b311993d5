"""GeoJSON named `.geojson.gz`, as outlines of tissue and as annotations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.runner import in_process
from wsi_attn.viewer.collection import collect

SQUARE = {"type": "Polygon", "coordinates": [[[8, 8], [40, 8], [40, 40], [8, 40], [8, 8]]]}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "a.png")
    document = {"type": "Feature", "geometry": SQUARE, "properties": {}}
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(json.dumps(document).encode()))
    return tmp_path / "a.png"


@pytest.mark.parametrize("tissue", ["a.geojson.gz", "."])
def test_tissue(tissue: str, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tile-size", "16", "--scores", "none", "-o", image.parent / "a.zarr", "--json")
    (record,) = in_process(capsys, "tile", image, "--tissue", image.parent / tissue, *options).json()
    assert record["tissue_fraction"] == 0.25


def test_boxes_column(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = image.parent / "t.csv"
    table.write_text("path,boxes\na.png,a.geojson.gz\n")
    in_process(capsys, "boxes", table, "-o", image.parent / "out", "--json")


def test_view(image: Path) -> None:
    (entry,) = collect([image, image.parent / "a.geojson.gz"]).entries.values()
    assert [path.name for path in entry.polygons] == ["a.geojson.gz"]
