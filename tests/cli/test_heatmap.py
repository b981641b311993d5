"""`wsi-attn heatmap` as a user runs it: pictures of predictions and stores, contact sheets, old option names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import in_process, wsi_attn

STEM = "cmu1_small_region"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prediction and a store of the demo slide."""
    folder = tmp_path_factory.mktemp("made")
    slide = Path(__file__).parents[1] / "data" / f"{STEM}.svs"
    wsi_attn("tile", slide, "--output", folder, "--overlap", "64")
    wsi_attn("predict", slide, "--output", folder)
    return folder


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_prediction_leaves_picture_and_regions_beside_it(made: Path) -> None:
    (record,) = wsi_attn("heatmap", made / f"{STEM}.prediction.json", "--json").json()
    assert record["heatmap"] == str(made / f"{STEM}.heatmap.png")
    assert record["geojson"] == str(made / f"{STEM}.geojson")
    assert max(picture(made / f"{STEM}.heatmap.png").shape) > 1600  # slide and legend
    regions = json.loads((made / f"{STEM}.geojson").read_text())["features"]
    assert {region["properties"]["objectType"] for region in regions} == {"annotation"}


@pytest.mark.parametrize("fonts", ["installed", "none"])
def test_names_in_other_scripts_stay_distinct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fonts: str) -> None:
    if fonts == "none":
        monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
    pictures = []
    for name in ("切片一", "切片二", "شريحة"):
        store = shutil.copytree(Path(__file__).parents[1] / "data" / "store_schema2.zarr", tmp_path / f"{name}.zarr")
        (record,) = wsi_attn("heatmap", store, "-o", tmp_path / "out", "--size", "400", "--json").json()
        pictures.append(picture(Path(record["heatmap"])))
    for index, other in ((0, 1), (1, 2), (2, 0)):
        assert pictures[index].shape == pictures[other].shape
        assert not np.array_equal(pictures[index], pictures[other])


def test_old_and_new_names_of_options_are_one(made: Path, tmp_path: Path) -> None:
    prediction = made / f"{STEM}.prediction.json"
    old = ("--show", "value", "--alpha", "0.7", "--colour-map", "magma")
    new = ("--as", "value", "--opacity", "0.7", "--colours", "magma")
    for name, options in (("old", old), ("new", new)):
        wsi_attn("heatmap", prediction, "-o", tmp_path / name, "--size", "400", *options)
    first, second = ((tmp_path / name / f"{STEM}.heatmap.png").read_bytes() for name in ("old", "new"))
    assert first == second


def test_evidence_for_a_label_with_a_contact_sheet(made: Path, tmp_path: Path) -> None:
    prediction = made / f"{STEM}.prediction.json"
    of = f"evidence:{json.loads(prediction.read_text())['label']}"
    arguments = ("heatmap", prediction, "--of", of, "-o", tmp_path, "--size", "400", "--contact-sheet", "6", "--json")
    (record,) = wsi_attn(*arguments).json()
    name = of.replace(":", "-")
    assert record["heatmap"].endswith(f"{STEM}.{name}.heatmap.png")
    with Image.open(record["contact_sheet"]) as sheet:
        assert json.loads(sheet.text["wsi-attn"])["of"] == of
        assert min(sheet.size) > 400


def test_uncertainty_of_every_place(made: Path, tmp_path: Path) -> None:
    prediction = made / f"{STEM}.prediction.json"
    (record,) = wsi_attn("heatmap", prediction, "--of", "uncertainty", "-o", tmp_path, "--size", "400", "--json").json()
    assert record["heatmap"].endswith(f"{STEM}.uncertainty.heatmap.png")
    drawn = picture(Path(record["heatmap"]))[:400].astype(int)
    assert (np.ptp(drawn, axis=-1) > 60).any()


def test_scores_of_a_store(made: Path, tmp_path: Path) -> None:
    store = made / f"{STEM}.zarr"
    (record,) = wsi_attn("heatmap", store, "--of", "score:tissue", "-o", tmp_path, "--size", "400", "--json").json()
    assert "geojson" not in record
    drawn = picture(Path(record["heatmap"]))[:400].astype(int)
    assert (np.ptp(drawn, axis=-1) > 60).any()
    error = wsi_attn("heatmap", store, "--of", "score:tisue", "-o", tmp_path, code=2).error()
    assert "score:tissue" in error
    assert "grid" in wsi_attn("heatmap", store, "--grid", "none", "-o", tmp_path, code=2).error()


def test_complete_pictures_are_skipped_and_others_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = made / f"{STEM}.prediction.json"
    arguments = ("heatmap", prediction, "-o", tmp_path, "--size", "400", "--json")
    (first,) = in_process(capsys, *arguments).json()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = in_process(capsys, *arguments)
    assert (first["state"], again.json()[0]["state"]) == ("written", "skipped")
    assert "--overwrite" in again.stderr
    assert "--overwrite" in in_process(capsys, *arguments, "--opacity", "0.9", code=3).error()
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert in_process(capsys, *arguments, "--opacity", "0.9", "--overwrite").json()[0]["state"] == "written"


def test_foreign_regions_are_kept(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / f"{STEM}.geojson"
    mine.write_text("drawn by hand")
    arguments = ("heatmap", made / f"{STEM}.prediction.json", "-o", tmp_path, "--size", "400")
    assert mine.name in in_process(capsys, *arguments, code=3).error()
    assert mine.read_text() == "drawn by hand"
    assert list(tmp_path.iterdir()) == [mine]


def test_a_contact_sheet_is_added_to_a_complete_picture(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("heatmap", made / f"{STEM}.prediction.json", "-o", tmp_path, "--size", "400", "--json")
    in_process(capsys, *arguments)
    before = (tmp_path / f"{STEM}.heatmap.png").stat().st_mtime_ns
    (record,) = in_process(capsys, *arguments, "--contact-sheet", "4").json()
    assert Path(record["contact_sheet"]).is_file()
    assert (tmp_path / f"{STEM}.heatmap.png").stat().st_mtime_ns == before


def test_two_inputs_of_one_name(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prediction = made / f"{STEM}.prediction.json"
    (tmp_path / "other").mkdir()
    for path in made.glob(f"{STEM}.prediction.*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / "other" / path.name)
    twin = tmp_path / "other" / prediction.name
    result = in_process(capsys, "heatmap", prediction, twin, "-o", tmp_path / "out", "--size", "400", code=4)
    assert "would both write" in result.error()


def test_a_slide_has_no_heatmap_yet(demo_slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = in_process(capsys, "heatmap", demo_slide, code=2).error()
    assert f"wsi-attn predict {demo_slide} --heatmap" in error
    assert f"wsi-attn tile {demo_slide}" in error
