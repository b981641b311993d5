"""Records of predictions through the command line: small, published, found again, and one bad one costs only itself."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import jsonschema
import pytest
import zarr

from tests.cli.runner import in_process
from wsi_attn.lru import LruCache
from wsi_attn.store.predictions import read_prediction
from wsi_attn.viewer.collection import collect
from wsi_attn.viewer.records import with_pixels
from wsi_attn.viewer.viewer_slide import ViewerSlide

ROOT = Path(__file__).parents[2]
SLIDE = ROOT / "tests" / "data" / "cmu1_small_region.svs"
OLD = ROOT / "tests" / "data" / "schema-1.prediction.json"
SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text())
CAFE = os.fsdecode(b"caf\xe9")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A record of schema version 1 and its slide, which it names by a relative path."""
    shutil.copy(SLIDE, tmp_path)
    return Path(shutil.copy(OLD, tmp_path / "cmu1_small_region.prediction.json"))


def test_an_old_record_is_drawn_exported_and_kept(
    old: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = old.read_bytes()
    (drawn,) = in_process(capsys, "heatmap", old, "--contact-sheet", "4", "--json").json()
    assert Path(drawn["heatmap"]).stat().st_size > 10_000
    for kind in ("geojson", "csv", "html", "ome-zarr"):
        (found,) = in_process(capsys, "export", old, "--to", kind, "-o", tmp_path / "out", "--json").json()
        assert found["state"] == "written"
    assert old.read_bytes() == before


def test_records_conform_to_the_published_schema_and_are_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(SLIDE, tmp_path / "one" / "a.svs")
    monkeypatch.chdir(tmp_path / "one")
    options = ("--refer-above", "0.5")
    (line,) = in_process(capsys, "predict", "a.svs", "-o", "out", *options, "--json").json()
    assert line["slide"] == "a.svs"
    file = tmp_path / "one" / "out" / "a.prediction.json"
    record = json.loads(file.read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(record, SCHEMA)
    assert file.stat().st_size < 10_000
    assert record["slide"] == str(tmp_path / "one" / "a.svs")
    assert record["slide_relative"] == "../a.svs"
    assert {key: record[key] for key in line if key != "slide"} == {key: line[key] for key in line if key != "slide"}
    assert "attention" in zarr.open_group(file.with_name("a.prediction.zarr"), mode="r")
    monkeypatch.chdir("/")
    in_process(capsys, "heatmap", file, "-o", tmp_path / "pictures")
    (tmp_path / "one").rename(tmp_path / "two")
    in_process(capsys, "heatmap", tmp_path / "two" / "out", "-o", tmp_path / "pictures")
    shutil.rmtree(tmp_path / "two" / "out" / "a.prediction.zarr")
    result = in_process(capsys, "heatmap", tmp_path / "two" / "out", code=3)
    assert "a.prediction.zarr are missing" in result.error()
    again = in_process(capsys, "predict", tmp_path / "two" / "a.svs", "-o", tmp_path / "two" / "out", *options)
    assert "already" not in again.stderr  # an incomplete prediction is made again without --overwrite
    read_prediction(tmp_path / "two" / "out" / "a.prediction.json")


def test_bad_records_are_exit_code_3_and_the_others_are_drawn(
    old: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = json.loads(old.read_text())
    for number, (field, value) in enumerate({"seconds": "x", "size": None, "schema_version": 99}.items()):
        bad = tmp_path / f"bad{number}.prediction.json"
        bad.write_text(json.dumps({**record, field: value}))
        error = in_process(capsys, "export", bad, "--to", "csv", "-o", tmp_path / "out", code=3).error()
        assert field in error
        assert bad.name in error
    result = in_process(capsys, "heatmap", tmp_path, "--size", "200", code=4)
    assert result.stderr.count("wsi-attn: error:") == 3
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("width", [2**70, 2**31 - 1, 3000000])
def test_a_size_that_is_not_the_slides_is_refused(old: Path, capsys: pytest.CaptureFixture[str], width: int) -> None:
    old.write_text(json.dumps({**json.loads(old.read_text()), "size": [width, 2967]}))
    in_process(capsys, "heatmap", old, code=3).error()


def test_a_region_outside_the_slide_is_refused(old: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = json.loads(old.read_text())
    away = [{**record["attention"][0], "x": record["size"][0] * 10}]
    old.write_text(json.dumps({**record, "attention": away}))
    assert "damaged" in in_process(capsys, "export", old, "--to", "csv", "-o", tmp_path / "out", code=3).error()


def test_a_record_that_is_not_that_of_its_maps_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_process(capsys, "predict", SLIDE, "-o", tmp_path)
    file = tmp_path / f"{SLIDE.stem}.prediction.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "size": [record["size"][0] + 1, record["size"][1]]}))
    in_process(capsys, "export", file, "--to", "csv", "-o", tmp_path / "out", code=3).error()
    entry = next(iter(collect([SLIDE, file]).entries.values()))
    slide = ViewerSlide(SLIDE, LruCache(1 << 20))
    try:
        page = with_pixels(entry, slide)
    finally:
        slide.close()
    assert page["layers"] == page["regions"] == []
    assert "another size" in page["warnings"][0]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
def test_a_name_that_is_not_utf8_goes_through_all_commands(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    from wsi_attn.cli.app import run

    slide = tmp_path / f"{CAFE}.svs"
    shutil.copy(SLIDE, slide)
    out = tmp_path / "out"
    assert run(["tissue", str(slide), "-o", str(tmp_path / "tissue"), "--json"]) == 0
    assert run(["tile", str(slide), "-o", str(tmp_path / "stores"), "--json"]) == 0
    assert run(["predict", str(slide), "-o", str(out), "--json", "-q"]) == 0
    line = json.loads(capsysbinary.readouterr().out.splitlines()[-1])
    assert line["slide"].endswith("/caf%E9.svs")
    file = out / f"{CAFE}.prediction.json"
    jsonschema.validate(json.loads(file.read_text()), SCHEMA)
    assert read_prediction(file).slide == str(slide)
    assert run(["heatmap", str(file), "--json"]) == 0
    for kind in ("geojson", "csv", "parquet"):
        assert run(["export", str(file), "--to", kind, "-o", str(tmp_path / "x"), "--json"]) == 0
    (entry,) = collect([out]).entries.values()
    assert entry.path == slide
    assert entry.name == "caf\\xe9.svs"
