"""`wsi-attn export` as a user runs it: every format of a real slide's prediction and store, exit codes, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tifffile

from tests.cli.runner import wsi_attn

STEM = "cmu1_small_region"
WRITTEN = {
    "png": f"{STEM}.attention.png",
    "geojson": f"{STEM}.geojson",
    "ome-tiff": f"{STEM}.attention.ome.tiff",
    "ome-zarr": f"{STEM}.attention.zarr",
    "csv": f"{STEM}.csv",
    "parquet": f"{STEM}.parquet",
    "dzi": f"{STEM}.dzi",
    "html": f"{STEM}.html",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prediction and a store of the demo slide."""
    folder = tmp_path_factory.mktemp("made")
    slide = Path(__file__).parents[1] / "data" / f"{STEM}.svs"
    wsi_attn("tile", slide, "--output", folder)
    wsi_attn("predict", slide, "--output", folder)
    return folder


@pytest.mark.parametrize("to", WRITTEN)
def test_a_folder_of_predictions(to: str, made: Path, tmp_path: Path) -> None:
    (record,) = wsi_attn("export", made, "--to", to, "--output", tmp_path, "--json").json()
    assert record["format"] == to
    assert Path(record["output"]) == tmp_path / WRITTEN[to]
    assert (tmp_path / WRITTEN[to]).exists()
    again = wsi_attn("export", made, "--to", to, "--output", tmp_path, "--json")
    assert "already complete" in again.stderr
    assert again.json()[0]["state"] == "skipped"
    plain = wsi_attn("export", made, "--to", to, "--output", tmp_path, "--overwrite")
    assert plain.stdout.split("\t")[1].strip() == str(tmp_path / WRITTEN[to])
    assert {path.name for path in tmp_path.iterdir()} <= {WRITTEN[to], f"{STEM}_files"}  # nothing temporary is left


@pytest.mark.parametrize("to", ["geojson", "csv", "png"])
def test_something_else_in_the_way_is_kept(to: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / WRITTEN[to]).write_text("mine")
    arguments = ("export", made, "--to", to, "--output", tmp_path)
    assert "--overwrite" in wsi_attn(*arguments, code=3).error()
    assert (tmp_path / WRITTEN[to]).read_text() == "mine"
    wsi_attn(*arguments, "--overwrite")
    assert (tmp_path / WRITTEN[to]).read_bytes() != b"mine"


def test_other_options_are_another_export(made: Path, tmp_path: Path) -> None:
    export = ("export", made, "--to", "png", "-o", tmp_path, "--size", "300")
    wsi_attn(*export)
    assert "--overwrite" in wsi_attn(*export, "--colours", "magma", code=3).error()


def test_one_file_and_one_label(made: Path, tmp_path: Path) -> None:
    prediction = made / f"{STEM}.prediction.json"
    label = json.loads(prediction.read_text())["label"]
    file = tmp_path / "here.tif"
    arguments = ("export", prediction, "--to", "ome-tiff", "--output", file, "--of", f"evidence:{label}", "--values")
    (record,) = wsi_attn(*arguments, "--json").json()
    assert record["of"] == f"evidence:{label}"
    assert tifffile.imread(file).dtype == "float32"


def test_annotations_or_detections(made: Path, tmp_path: Path) -> None:
    prediction = made / f"{STEM}.prediction.json"
    for options, kind in (((), "detection"), (("--as-annotations",), "annotation")):
        file = tmp_path / f"{kind}.geojson"
        wsi_attn("export", prediction, "--to", "geojson", "-o", file, *options)
        assert {f["properties"]["objectType"] for f in json.loads(file.read_text())["features"]} == {kind}


def test_most_cells_can_be_left_out_and_it_is_said(made: Path, tmp_path: Path) -> None:
    said = wsi_attn("export", made, "--to", "geojson", "-o", tmp_path, "--top", "7", "--json")
    assert said.json()[0]["features"] == 7
    assert "omitted" in said.stderr
    assert len(json.loads((tmp_path / f"{STEM}.geojson").read_text())["features"]) == 7


def test_a_store_from_stdin(made: Path, tmp_path: Path) -> None:
    line = f"{made / STEM}.zarr\n"
    (record,) = wsi_attn("export", "-", "--to", "ome-tiff", "-o", tmp_path, "--json", stdin=line).json()
    assert record["of"] == "slide"
    with tifffile.TiffFile(record["output"]) as tiff:
        assert tiff.series[0].shape == (2967, 2220, 3)
        assert len(tiff.series[0].levels) == 4


def test_a_bad_input_does_not_stop_the_others(made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.prediction.json"
    bad.write_text("{}")
    out = tmp_path / "out"
    result = wsi_attn("export", bad, made / f"{STEM}.prediction.json", "--to", "csv", "-o", out, "--json", code=4)
    assert "not a prediction" in result.error()
    assert len(result.json()) == 1


@pytest.mark.slow
def test_bad_usage(made: Path, tmp_path: Path) -> None:
    prediction = made / f"{STEM}.prediction.json"
    export = ("export", prediction, "-o", tmp_path)
    assert "xlsx" in wsi_attn(*export, "--to", "xlsx", code=2).error()
    assert "attention" in wsi_attn(*export, "--to", "png", "--of", "atention", code=2).error()
    assert "viridis" in wsi_attn(*export, "--to", "png", "--colours", "jet", code=2).error()
    assert "one quantity" in wsi_attn(*export, "--to", "png", "--of", "a", "--of", "b", code=2).error()
    assert "--downsample" in wsi_attn(*export, "--to", "png", "--size", "100", "--downsample", "2", code=2).error()
    assert "There is no" in wsi_attn("export", tmp_path / "a.zarr", "--to", "png", "-o", tmp_path, code=3).error()
    assert "no prediction" in wsi_attn("export", tmp_path, "--to", "png", "-o", tmp_path, code=3).error()
    assert not list(tmp_path.iterdir())


def test_two_predictions_of_one_name(made: Path, tmp_path: Path) -> None:
    first, twin = made / f"{STEM}.prediction.json", tmp_path / "twin" / f"{STEM}.prediction.json"
    twin.parent.mkdir()
    shutil.copy(first, twin)
    shutil.copytree(made / f"{STEM}.prediction.zarr", twin.with_name(f"{STEM}.prediction.zarr"))
    result = wsi_attn("export", first, twin, "--to", "csv", "-o", tmp_path / "out", code=4)
    assert "would both" in result.error()
