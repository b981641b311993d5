"""Where GeoJSON lies on slides with bounds, of which QuPath shows the bounds alone: written, and read back."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import zarr

from tests.cli.runner import in_process
from tests.cli.test_view import get, viewer
from tests.tiff_files import write_sparse
from wsi_attn.store.predictions import read_prediction
from wsi_attn.store.tile_store import TileStore

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"
CORNER = (1024, 512)
SIDE = 768


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 768 x 768 px at (1024, 512) of a canvas of 2048 x 1536 px."""
    with openslide.OpenSlide(SLIDE) as slide:
        pixels = np.array(slide.read_region((700, 900), 0, (SIDE, SIDE)).convert("RGB"))
    return write_sparse(tmp_path_factory.mktemp("sparse") / "sparse.tif", pixels, (8, 6), (4, 2))


@pytest.fixture
def tiled(sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    in_process(capsys, "tile", sparse, "-o", tmp_path / "found.zarr")
    return tmp_path / "found.zarr"


def document(path: Path | str) -> dict[str, Any]:
    found = json.loads(Path(path).read_bytes())
    assert isinstance(found, dict)
    return found


def corners(collection: dict[str, Any]) -> np.ndarray:
    """(N, 2): the first corner of every exterior ring."""
    return np.array([feature["geometry"]["coordinates"][0][0] for feature in collection["features"]])


def mask(store: Path) -> np.ndarray:
    with TileStore.open(store) as opened:
        return opened.tissue()[0]


def square(path: Path, x: int, y: int, side: int, **more: Any) -> Path:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature], **more}))
    return path


def test_tissue_of_a_cropped_slide_survives_the_round_trip(
    sparse: Path, tiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = in_process(capsys, "tissue", sparse, "-o", tmp_path, "--json").json()
    collection = document(record["geojson"])
    assert collection["wsi_attn"]["offset"] == list(CORNER)
    assert corners(collection).min() >= -16  # a pixel of the mask may reach over the edge of the picture
    assert corners(collection).max() <= SIDE + 16
    in_process(capsys, "tile", sparse, "-o", tmp_path / "read.zarr", "--tissue", record["geojson"])
    np.testing.assert_array_equal(mask(tmp_path / "read.zarr"), mask(tiled))
    assert mask(tiled).any()


def test_geojson_from_qupath_is_counted_from_the_corner_of_the_bounds(
    sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = square(tmp_path / "drawn.geojson", 256, 128, 512)
    said = square(tmp_path / "said.geojson", 256 + CORNER[0], 128 + CORNER[1], 512, wsi_attn={"offset": [0, 0]})
    packed = tmp_path / "packed.geojson"
    packed.write_bytes(gzip.compress(drawn.read_bytes()))
    masks = []
    for path in (drawn, said, packed):
        output = tmp_path / f"{path.stem}.zarr"
        in_process(capsys, "tile", sparse, "-o", output, "--tissue", path)
        masks.append(mask(output))
    with TileStore.open(output) as store:
        frame = store.tissue()[1]
    rows, columns = np.nonzero(masks[0])
    assert columns.min() * frame.downsample_x == pytest.approx(CORNER[0] + 256, abs=frame.downsample_x)
    assert rows.min() * frame.downsample_y == pytest.approx(CORNER[1] + 128, abs=frame.downsample_y)
    assert (columns.max() + 1) * frame.downsample_x == pytest.approx(CORNER[0] + 768, abs=frame.downsample_x)
    np.testing.assert_array_equal(masks[1], masks[0])
    np.testing.assert_array_equal(masks[2], masks[0])


def test_predictions_are_shifted_in_geojson_and_nowhere_else(
    sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = in_process(capsys, "predict", sparse, "-o", tmp_path, "--allow-out-of-distribution", "--json").json()
    prediction = tmp_path / "sparse.prediction.json"
    in_process(capsys, "heatmap", prediction)
    in_process(capsys, "export", prediction, "--to", "geojson", "-o", tmp_path / "export.geojson")
    regions = [(region["x"], region["y"]) for region in record["attention"]]
    assert all(x >= CORNER[0] - SIDE and y >= CORNER[1] - SIDE for x, y in regions)
    assert max(x for x, _ in regions) >= CORNER[0]  # of the whole slide
    for path in (tmp_path / "sparse.geojson", tmp_path / "export.geojson"):
        collection = document(path)
        assert collection["wsi_attn"]["offset"] == list(CORNER)
        np.testing.assert_array_equal(corners(collection) + CORNER, regions)
    assert read_prediction(prediction).bounds == (*CORNER, SIDE, SIDE)


def test_stores_remember_the_bounds(tiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (info,) = in_process(capsys, "info", tiled, "--json").json()
    assert info["bounds"] == [*CORNER, SIDE, SIDE]
    for of in ("tissue", "score:tissue"):
        output = tmp_path / f"{of.replace(':', '-')}.geojson"
        in_process(capsys, "export", tiled, "--to", "geojson", "--of", of, "-o", output)
        assert document(output)["wsi_attn"]["offset"] == list(CORNER)
    in_process(capsys, "export", tiled, "--to", "csv", "-o", tmp_path / "tiles.csv")
    with (tmp_path / "tiles.csv").open() as file:
        xs = [float(row["x"]) for row in csv.DictReader(file)]
    assert max(xs) >= CORNER[0]
    np.testing.assert_array_equal(
        np.sort(corners(document(tmp_path / "score-tissue.geojson"))[:, 0]) + CORNER[0], np.sort(xs)
    )


def test_given_boxes_and_regions_of_a_manifest_are_shifted_back(
    sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    square(tmp_path / "whole.geojson", 0, 0, SIDE)
    table = tmp_path / "slides.csv"
    table.write_text(f"path,label,boxes\n{sparse},a,whole.geojson\n{sparse},a,{CORNER[0]} {CORNER[1]} 1792 1280\n")
    in_process(capsys, "boxes", table, "-o", tmp_path / "boxes", "--json")
    outside = square(tmp_path / "outside.geojson", 1024, 512, SIDE)
    table.write_text(f"path,label,boxes\n{sparse},a,{outside.name}\n")
    assert "reaches outside" in in_process(capsys, "boxes", table, "-o", tmp_path / "more", code=3).stderr


def test_an_offset_that_is_none_is_refused(sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = square(tmp_path / "odd.geojson", 0, 0, 100, wsi_attn={"offset": "1024"})
    result = in_process(capsys, "tile", sparse, "-o", tmp_path / "s.zarr", "--tissue", path, code=3)
    assert "offset" in result.error()
    cut = tmp_path / "cut.geojson"
    cut.write_bytes(gzip.compress(path.read_bytes())[:-20])
    result = in_process(capsys, "tile", sparse, "-o", tmp_path / "s.zarr", "--tissue", cut, code=3)
    assert str(cut) in result.error()


TRAINING = ("--model", "joint-segmentation", "--epochs", "2", "--batch-size", "4", "--crop", "64", "--mpp", "4")


def test_masks_regions_and_outlines_of_segmentation_agree_with_qupath(
    sparse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mask counts from the corner of the bounds, the regions state that they count from that of the slide."""
    square(tmp_path / "mask.geojson", 0, 0, SIDE)
    square(tmp_path / "region.geojson", *CORNER, 256, wsi_attn={"offset": [0, 0]})
    other = Path(shutil.copy(sparse, tmp_path / "other.tif"))
    table = tmp_path / "slides.csv"
    rows = [f"{path},mask.geojson,region.geojson,{split}" for path, split in ((sparse, "train"), (other, "val"))]
    table.write_text("\n".join(["path,mask,regions,split", *rows]) + "\n")
    run, pixels = tmp_path / "run", pytest.approx((256 / 8) ** 2, rel=0.05)
    options = ("--learning-rate", "0.01", "--attention", "none", "--tissue", "none", "--json")
    (record,) = in_process(capsys, "train", table, "-o", run, *TRAINING, *options).json()
    assert record["per_class"]["foreground"]["support"] == pixels
    in_process(capsys, "evaluate", run, table, "--split", "val", "--report", tmp_path / "report")
    (line,) = csv.DictReader((tmp_path / "report" / "predictions.csv").read_text().splitlines())
    assert int(line["tp:foreground"]) + int(line["fn:foreground"]) == pixels

    in_process(capsys, "segment", sparse, "--model", run, "-o", tmp_path / "out")
    outlines = document(tmp_path / "out" / "sparse.segmentation.geojson")
    label = zarr.open_array(tmp_path / "out" / "sparse.segmentation.zarr" / "0", mode="r")[...]
    assert outlines["wsi_attn"]["offset"] == list(CORNER)
    assert outlines["features"]
    found = np.concatenate([ring for each in outlines["features"] for ring in each["geometry"]["coordinates"]])
    ys, xs = np.nonzero(label)
    scale = 2048 / label.shape[1], 1536 / label.shape[0]
    lowest, highest = (xs.min() * scale[0], ys.min() * scale[1]), ((xs.max() + 1) * scale[0], (ys.max() + 1) * scale[1])
    np.testing.assert_allclose(found.min(axis=0) + CORNER, lowest, atol=2)
    np.testing.assert_allclose(found.max(axis=0) + CORNER, highest, atol=2)


def test_the_viewer_draws_outlines_where_qupath_does(sparse: Path, tmp_path: Path) -> None:
    drawn = square(tmp_path / "drawn.geojson", 64, 128, 256)
    said = square(tmp_path / "said.geojson", 64, 128, 256, wsi_attn={"offset": [0, 0]})
    for file, corner in ((drawn, (CORNER[0] + 64, CORNER[1] + 128)), (said, (64, 128))):
        with viewer(sparse, file) as (_, address):
            (slide,) = json.loads(get(f"{address}slides.json"))["slides"]
            answer = json.loads(get(f"{address}slides/{slide['id']}/polygons.json"))
        (polygon,) = answer["polygons"]
        np.testing.assert_array_equal(np.min(polygon["rings"][0], axis=0), corner)
