"""`wsi-attn tissue` as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from tests.cli.runner import wsi_attn


def shoelace(ring: list[list[float]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_prints_without_output(demo_slide: Path, tmp_path: Path) -> None:
    result = wsi_attn("tissue", demo_slide)
    path, fraction, polygons, area, output = result.stdout.rstrip("\n").split("\t")
    assert path == str(demo_slide)
    assert 0.3 < float(fraction.removesuffix(" tissue")) < 0.4
    assert polygons.endswith(("polygons", "polygon"))
    assert area.endswith(" mm²")
    assert output == "-"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["otsu", "robust"])
def test_outlines_and_picture(method: str, demo_slide: Path, tmp_path: Path) -> None:
    (record,) = wsi_attn("tissue", demo_slide, "-o", tmp_path, "--method", method, "--json").json()
    assert (record["method"], record["state"]) == (method, "written")
    collection = json.loads(Path(record["geojson"]).read_text())
    assert len(collection["features"]) == record["polygons"] > 0
    area = sum(shoelace(ring) for item in collection["features"] for ring in item["geometry"]["coordinates"])
    assert area == pytest.approx(record["tissue_fraction"] * 2220 * 2967, rel=1e-4)
    assert record["area_mm2"] == pytest.approx(area * 0.499**2 * 1e-6, rel=1e-4)
    for item in collection["features"]:
        corners = np.array(item["geometry"]["coordinates"][0])
        assert (corners >= 0).all()
        assert (corners <= (2220, 2967)).all()
        assert item["properties"]["classification"]["name"] == "Tissue"
    picture = np.asarray(Image.open(record["picture"]).convert("RGB"))
    assert picture.shape == (186, 139, 3)
    assert (np.abs(picture.astype(int) - (27, 120, 55)).max(-1) < 60).sum() > 50  # the outline's green


def test_done_is_skipped_and_anything_else_refused(demo_slide: Path, tmp_path: Path) -> None:
    arguments = ("tissue", demo_slide, "-o", tmp_path, "--json")
    (first,) = wsi_attn(*arguments).json()
    geojson, picture = Path(first["geojson"]), Path(first["picture"])
    before = geojson.read_bytes(), picture.read_bytes()
    again = wsi_attn(*arguments)
    assert again.json() == [{**first, "state": "skipped"}]
    assert "already" in again.stderr
    picture.unlink()  # as after a run that was killed
    assert wsi_attn(*arguments).json()[0]["state"] == "written"
    assert (geojson.read_bytes(), picture.read_bytes()) == before
    assert "other parameters" in wsi_attn(*arguments, "--method", "robust", code=3).error()
    corrected = json.loads(before[0])
    corrected["features"].pop()
    geojson.write_text(json.dumps(corrected))
    assert "was modified" in wsi_attn(*arguments, code=3).error()
    geojson.write_text(json.dumps(corrected["features"]))  # as QuPath saves it
    assert "saved by another program" in wsi_attn(*arguments, code=3).error()
    assert wsi_attn(*arguments, "--overwrite").json()[0]["state"] == "written"
    assert geojson.read_bytes() == before[0]


def test_a_bad_slide_does_not_stop_the_others(demo_slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(demo_slide.read_bytes()[:100_000])
    result = wsi_attn("tissue", bad, demo_slide, tmp_path / "none.svs", "--json", code=4)
    assert [record["slide"] for record in result.json()] == [str(demo_slide)]
    assert result.stderr.count("wsi-attn: error:") == 2
    assert wsi_attn("tissue", bad, code=3).stdout == ""


def test_two_inputs_of_one_name(demo_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    copy = shutil.copy(demo_slide, tmp_path / "other")
    result = wsi_attn("tissue", demo_slide, copy, "-o", tmp_path / "out", code=4)
    assert "would both write" in result.error()


def test_stdin_and_quiet(demo_slide: Path) -> None:
    result = wsi_attn("tissue", "-", "--quiet", stdin=f"{demo_slide}\n")
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


def test_areas_and_resolution(demo_slide: Path) -> None:
    def found(*options: str) -> dict[str, float]:
        return wsi_attn("tissue", demo_slide, "--json", *options).json()[0]

    usual, finer = found(), found("--mpp", "4")
    assert finer["downsample"][0] == pytest.approx(4 / 0.499)
    assert finer["tissue_fraction"] == pytest.approx(usual["tissue_fraction"], abs=0.06)
    assert found("--min-area", "10000000")["polygons"] == 0
    unfilled, filled = (found("--mpp", "4", "--max-hole", area)["tissue_fraction"] for area in ("0", "1000000"))
    assert unfilled < filled
    assert found("--method", "none")["tissue_fraction"] == 1.0


def test_simplified_outlines(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("tissue", demo_slide, "-o", tmp_path / "exact")
    wsi_attn("tissue", demo_slide, "-o", tmp_path / "fewer", "--simplify", "16")
    sizes = [(tmp_path / name / "cmu1_small_region.tissue.geojson").stat().st_size for name in ("fewer", "exact")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "otzu"), "otsu"),
        (("--mpp", "0"), "--mpp"),
        (("--mpp", "nan"), "--mpp"),
        (("--slide-mpp", "x"), "--slide-mpp"),
        (("--min-area", "-1"), "--min-area"),
    ],
)
def test_wrong_options(options: tuple[str, ...], words: str, demo_slide: Path) -> None:
    assert words in wsi_attn("tissue", demo_slide, *options, code=2).error()


def test_views_that_are_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("RGB", (20_001, 4), (240, 240, 240)).save(path)
    assert "larger --mpp" in wsi_attn("tissue", path, "--slide-mpp", "1", "--mpp", "1", code=3).error()
    wsi_attn("tissue", path, "--slide-mpp", "1", "--mpp", "2")


def test_without_pixel_size(tmp_path: Path) -> None:
    pixels = np.full((300, 400, 3), 243, np.uint8)
    pixels[50:200, 100:300] = (215, 140, 190)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    result = wsi_attn("tissue", path, "--json")
    (record,) = result.json()
    assert (record["mpp"], record["area_mm2"], record["polygons"]) == (None, None, 1)
    assert "the pixel size is unknown" in result.stderr
    for option in ("--mpp", "--min-area", "--max-hole"):
        assert "--slide-mpp" in wsi_attn("tissue", path, option, "8", code=3).error()
    (record,) = wsi_attn("tissue", path, "--slide-mpp", "2", "--mpp", "8", "--json").json()
    assert record["area_mm2"] == pytest.approx(150 * 200 * 4e-6, rel=0.1)


def test_empty_and_black_slides(tmp_path: Path) -> None:
    for grey in (243, 0):
        path = tmp_path / f"grey{grey}.png"
        Image.new("RGB", (500, 400), (grey,) * 3).save(path)
        for method in ("otsu", "robust"):
            result = wsi_attn("tissue", path, "--method", method, "--json", "-o", tmp_path / method)
            assert (result.json()[0]["tissue_fraction"], result.json()[0]["polygons"]) == (0.0, 0)
            assert "no tissue found" in result.stderr


def test_slide_and_store_agree(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("tile", demo_slide, "-o", tmp_path)
    slide, store = wsi_attn("tissue", demo_slide, tmp_path / "cmu1_small_region.zarr", "--json").json()
    assert slide["tissue_fraction"] == pytest.approx(store["tissue_fraction"], abs=0.002)


def test_tile_takes_the_outlines_back(demo_slide: Path, tmp_path: Path) -> None:
    """Found by `tissue` and read by `tile`, or found by `tile` itself: the same mask, pixel by pixel."""
    (record,) = wsi_attn("tissue", demo_slide, "-o", tmp_path, "--json").json()
    masks = []
    for name, tissue in (("file.zarr", record["geojson"]), ("own.zarr", "otsu")):
        wsi_attn("tile", demo_slide, "--tissue", tissue, "-o", tmp_path / name)
        masks.append(zarr.open_group(tmp_path / name, mode="r")["labels/tissue/0"][:])
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("slides/crc01_he_left.tif", 0.35, 0.5),
        ("slides/ndpi_dapi.ndpi", 0.2, 0.4),
        ("slides/dicom_camelyon_level.dcm", 0.2, 0.3),
        ("images/tcga_tiles", 0.8, 1.0),
    ],
)
@pytest.mark.parametrize("method", ["otsu", "robust"])
def test_real_slides(name: str, low: float, high: float, method: str, collection: Callable[[str], Path]) -> None:
    path = collection(name)
    paths = sorted(path.rglob("*.jpg"))[:3] if path.is_dir() else [path]
    for record in wsi_attn("tissue", *paths, "--method", method, "--json").json():
        assert low < record["tissue_fraction"] <= high
