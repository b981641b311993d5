"""Bad input: one clear line on stderr, the documented exit code, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import wsi_attn


def image(path: Path, grey: int = 128, size: tuple[int, int] = (300, 200)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


@pytest.mark.parametrize("command", ["info", "tile", "predict"])
def test_missing_file(command: str, tmp_path: Path) -> None:
    output = [] if command == "info" else ["--output", tmp_path / "out"]
    assert "file not found" in wsi_attn(command, tmp_path / "none.svs", *output, code=3).error()


@pytest.mark.parametrize("command", ["info", "tile", "predict"])
def test_text_file_renamed(command: str, tmp_path: Path) -> None:
    path = tmp_path / "fake.svs"
    path.write_text("this is no slide\n" * 100)
    output = [] if command == "info" else ["--output", tmp_path / "out"]
    error = wsi_attn(command, path, *output, code=3).error()
    assert "Cannot open" in error
    assert "OpenSlide" in error


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_truncated_slide(share: float, demo_slide: Path, tmp_path: Path) -> None:
    whole = demo_slide.read_bytes()
    path = tmp_path / "short.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "short.svs" in wsi_attn("tile", path, "--output", tmp_path / "out", code=3).error()
    assert not list((tmp_path / "out").glob("*.zarr"))


@pytest.mark.parametrize(
    "name",
    [
        "truncated.svs",
        "not_a_tiff.svs",
        "unsupported_compression.tiff",
        "rgb_uint16.tiff",
        "grey_4bit.tif",
        "ome_two_channels.ome.tif",
        "ome_multichannel_z.ome.tif",
        "crc01_cycif_4ch.ome.tif",
        "uint16_with_thumbnail.tif",
        "czi_rgb8.czi",
        "dicom_bpaec/6_0.dcm",
    ],
)
def test_real_files_that_cannot_be_read(name: str, collection: Callable[[str], Path]) -> None:
    error = wsi_attn("info", collection(f"slides/{name}"), code=3).error()
    assert Path(name).name in error


def test_glass_without_tissue(tmp_path: Path) -> None:
    path = image(tmp_path / "glass.png", 245, (1024, 1024))
    error = wsi_attn("predict", path, "--slide-mpp", "0.5", "--output", tmp_path / "out", code=3).error()
    assert "no tissue" in error


def test_pixel_size_is_never_guessed(tmp_path: Path) -> None:
    path = image(tmp_path / "photo.png")
    error = wsi_attn("predict", path, "--output", tmp_path / "out", code=3).error()
    assert "--slide-mpp" in error
    error = wsi_attn("tile", path, "--mpp", "1", "--output", tmp_path / "out", code=3).error()
    assert "--slide-mpp" in error
    tiled = wsi_attn("tile", path, "--output", tmp_path / "out", "--json")
    assert tiled.json()[0]["mpp"] is None
    assert "unknown pixel size" in tiled.stderr


def test_implausible_pixel_size(collection: Callable[[str], Path], tmp_path: Path) -> None:
    path = collection("slides/generic_pyramid.tiff")
    assert wsi_attn("info", path, "--json").json()[0]["mpp"] is None
    assert "print resolution" in wsi_attn("predict", path, "--output", tmp_path, code=3).error()


@pytest.mark.parametrize("value", ["0", "-1", "a", "1,2,3", "nan"])
def test_slide_mpp_must_be_positive_numbers(value: str, demo_slide: Path) -> None:
    assert "--slide-mpp" in wsi_attn("info", demo_slide, f"--slide-mpp={value}", code=2).error()


def test_slide_too_coarse_for_the_model(demo_slide: Path, tmp_path: Path) -> None:
    error = wsi_attn("predict", demo_slide, "--slide-mpp", "4", "--output", tmp_path, code=3).error()
    assert "finest pixels" in error


def test_model_says_when_the_colours_do_not_fit(tmp_path: Path) -> None:
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    spots = np.random.default_rng(0).integers(60, 960, (60, 2))
    for y, x in spots:
        pixels[y : y + 40, x : x + 40] = (10, 20, 230)
    path = tmp_path / "dapi.png"
    Image.fromarray(pixels).save(path)
    arguments = ("predict", path, "--slide-mpp", "0.5", "--output", tmp_path / "out", "--json")
    assert "is out of distribution" in wsi_attn(*arguments, code=3).error()
    (record,) = wsi_attn(*arguments, "--allow-out-of-distribution").json()
    assert "is out of distribution" in record["warnings"][0]


def test_fluorescence_slide_is_refused_by_the_he_model(collection: Callable[[str], Path], tmp_path: Path) -> None:
    error = wsi_attn("predict", collection("slides/ndpi_dapi.ndpi"), "--output", tmp_path, code=3).error()
    assert "is out of distribution" in error


def test_he_slide_is_refused_by_the_photograph_model(demo_slide: Path, tmp_path: Path) -> None:
    error = wsi_attn("predict", demo_slide, "--model", "fungi", "--output", tmp_path, code=3).error()
    assert "is out of distribution" in error


def test_unknown_model_gets_near_misses(demo_slide: Path, tmp_path: Path) -> None:
    error = wsi_attn("predict", demo_slide, "--model", "cellularity", "--output", tmp_path, code=2).error()
    assert "cellularity-he" in error


def test_checkpoint_of_another_kind(demo_slide: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    error = wsi_attn("predict", demo_slide, "--model", other, "--output", tmp_path, code=3).error()
    assert "not a wsi-attn checkpoint" in error


def test_foreign_output_in_the_way(demo_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "notes.txt").write_text("mine")
    error = wsi_attn("tile", demo_slide, "--output", tmp_path / "s.zarr", code=3).error()
    assert "--overwrite" in error
    assert (tmp_path / "s.zarr" / "notes.txt").read_text() == "mine"
    mine = tmp_path / "cmu1_small_region.prediction.json"
    mine.write_text("{}")
    assert "--overwrite" in wsi_attn("predict", demo_slide, "--output", tmp_path, code=3).error()
    assert mine.read_text() == "{}"


def test_two_slides_of_one_name(demo_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(demo_slide, tmp_path / "other")
    twin = tmp_path / "other" / demo_slide.name
    result = wsi_attn("predict", demo_slide, twin, "--output", tmp_path / "out", code=4)
    assert "would both write" in result.error()


def test_wrong_usage(demo_slide: Path, tmp_path: Path) -> None:
    assert "--output" in wsi_attn("segment", demo_slide, "-m", "m", code=2).error()
    assert "tile size" in wsi_attn("tile", demo_slide, "-o", tmp_path, "--overlap", "300", code=2).error()
    assert "a single store" in wsi_attn("tile", demo_slide, demo_slide, "-o", tmp_path / "a.zarr", code=2).error()
    assert "no input" in wsi_attn("info", "-", code=2).error()
    assert "--device" in wsi_attn("predict", demo_slide, "-o", tmp_path, "--device", "tpu", code=2).error()


@pytest.mark.slow
def test_manifest_errors_name_file_and_row(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    run = ("train", manifest, "--output", tmp_path / "run")
    assert "no manifest at" in wsi_attn(*run, code=3).error()
    manifest.write_text("file,class\na.png,x\n")
    error = wsi_attn(*run, code=3).error()
    assert "no column for the path" in error
    assert "file, class" in error
    image(tmp_path / "a.png")
    manifest.write_text("path,label\na.png,x\nb.png,y\n")
    assert "row 3" in wsi_attn(*run, code=3).error()
    manifest.write_text("path,label,split,patient\na.png,x,train,p1\na.png,y,val,p1\n")
    assert "patient 'p1'" in wsi_attn(*run, code=3).error()
    manifest.write_text("path,label\na.png,x\n")
    assert "at least two" in wsi_attn(*run, code=3).error()
    assert not (tmp_path / "run").exists()


def test_prediction_files_that_are_none(tmp_path: Path) -> None:
    assert "There is no prediction" in wsi_attn("heatmap", tmp_path / "a.prediction.json", code=3).error()
    (tmp_path / "b.prediction.json").write_text("[1, 2]")
    assert "not a prediction" in wsi_attn("heatmap", tmp_path, code=3).error()


@pytest.mark.slow
def test_slide_that_has_moved(demo_slide: Path, tmp_path: Path) -> None:
    slide = tmp_path / "here.svs"
    shutil.copy(demo_slide, slide)
    wsi_attn("predict", slide, "--output", tmp_path)
    slide.rename(tmp_path / "there.svs")
    assert "--slide" in wsi_attn("heatmap", tmp_path, code=3).error()
    wsi_attn("heatmap", tmp_path, "--slide", tmp_path / "there.svs")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = wsi_attn("heatmap", tmp_path / "none.json", "--debug", code=None)
    assert "Traceback" in result.stderr
    assert result.code == 3
