"""From a real slide to a label and a picture, through the command line."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.runner import wsi_attn

KEYS = {
    "slide",
    "label",
    "probabilities",
    "uncertainty",
    "tissue_fraction",
    "unreadable_tiles",
    "attention",
    "model",
    "mpp",
    "seconds",
    "software",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    slide = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"
    result = wsi_attn("tile", slide, "--output", folder / "demo.zarr", "--json")
    (record,) = result.json()
    assert record["store"] == str(folder / "demo.zarr")
    assert record["unreadable_tiles"] == 0
    assert 0 < record["tiles"] < record["tiles_total"]
    return folder / "demo.zarr"


def test_info_says_what_the_file_says(demo_slide: Path) -> None:
    (record,) = wsi_attn("info", demo_slide, "--json").json()
    assert (record["width"], record["height"]) == (2220, 2967)
    assert record["mpp"] == [0.499, 0.499]
    assert record["levels"][0]["tile_size"] == [240, 240]
    assert record["associated"] == ["label", "macro", "thumbnail"]
    assert "0.499" in wsi_attn("info", demo_slide).stdout


def test_slide_and_store_get_the_same_answer(demo_slide: Path, store: Path, tmp_path: Path) -> None:
    (slide,) = wsi_attn("predict", demo_slide, "--output", tmp_path / "a", "--json").json()
    (tiled,) = wsi_attn("predict", store, "--output", tmp_path / "b", "--json").json()
    assert set(slide) >= KEYS
    assert slide["label"] == tiled["label"]
    # The store's coarser levels were rounded to whole grey values; the slide has none and is averaged at once.
    assert slide["probabilities"] == pytest.approx(tiled["probabilities"], abs=0.02)
    places = [[(region["x"], region["y"]) for region in record["attention"]] for record in (slide, tiled)]
    assert len(set(places[0]) & set(places[1])) >= 0.8 * len(places[0])
    assert sum(slide["probabilities"].values()) == pytest.approx(1)
    assert sum(region["weight"] for region in slide["attention"]) == pytest.approx(1)
    for region in slide["attention"]:
        assert region["x"] >= 0
        assert region["y"] >= 0
        assert region["x"] + region["width"] <= 2220
        assert region["y"] + region["height"] <= 2967
    assert slide["mpp"] == [0.499, 0.499]
    assert slide["model"]["name"] == "cellularity-he"
    assert len(slide["model"]["sha256"]) == 64


@pytest.mark.slow
def test_same_input_gives_the_same_file(demo_slide: Path, tmp_path: Path) -> None:
    records = []
    for name in ("a", "b"):
        wsi_attn("predict", demo_slide, "--output", tmp_path / name)
        record = json.loads((tmp_path / name / "cmu1_small_region.prediction.json").read_text())
        record.pop("seconds")
        records.append(record)
    assert records[0] == records[1]


def test_prediction_becomes_picture_and_regions(demo_slide: Path, tmp_path: Path) -> None:
    wsi_attn("predict", demo_slide, "--output", tmp_path)
    (record,) = wsi_attn("heatmap", tmp_path, "--json").json()
    with Image.open(record["heatmap"]) as picture:
        assert min(picture.size) > 500
    regions = json.loads(Path(record["geojson"]).read_text())["features"]
    predicted = json.loads((tmp_path / "cmu1_small_region.prediction.json").read_text())["attention"]
    corners = [tuple(feature["geometry"]["coordinates"][0][0]) for feature in regions]
    assert corners == [(region["x"], region["y"]) for region in predicted]


@pytest.mark.slow
def test_research_use_is_said_once_and_only_to_people(demo_slide: Path, tmp_path: Path) -> None:
    said = wsi_attn("predict", demo_slide, "--output", tmp_path)
    assert said.stderr.count("research and demonstration only") == 1
    assert "peak memory" in said.stderr
    assert len(said.stdout.splitlines()) == 1
    quiet = wsi_attn("predict", demo_slide, "--output", tmp_path, "--quiet")
    assert quiet.stderr == ""


def test_finished_work_is_skipped_and_said_so(demo_slide: Path, store: Path, tmp_path: Path) -> None:
    before = store.stat().st_mtime_ns
    again = wsi_attn("tile", demo_slide, "--output", store)
    assert "already complete" in again.stderr
    assert store.stat().st_mtime_ns == before
    first = wsi_attn("predict", demo_slide, "--output", tmp_path, "--json")
    second = wsi_attn("predict", demo_slide, "--output", tmp_path, "--json")
    assert "already complete" in second.stderr
    assert first.json() == second.json()


def test_paths_come_from_stdin_and_bad_ones_do_not_stop_the_rest(demo_slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_text("no slide")
    result = wsi_attn("predict", "-", "--output", tmp_path / "out", stdin=f"{bad}\n{demo_slide}\n", code=4)
    assert "bad.svs" in result.error()
    assert len(result.stdout.splitlines()) == 1


def test_a_photograph_is_answered_by_the_model_for_photographs(tmp_path: Path) -> None:
    photograph = tmp_path / "photo.png"
    noise = np.random.default_rng(0).normal(0, 6, (448, 448, 3))
    Image.fromarray((np.array([150, 150, 140]) + noise).clip(0, 255).astype(np.uint8)).save(photograph)
    (record,) = wsi_attn("predict", photograph, "--model", "fungi", "--output", tmp_path, "--json").json()
    assert set(record["probabilities"]) == {"BASH", "BBH", "GMA", "SHC", "TSH"}
    assert record["mpp"] is None
    assert record["tissue_fraction"] == 1.0


@pytest.mark.slow
def test_damaged_tile_is_masked_counted_and_reported(demo_slide: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.svs"
    shutil.copy(demo_slide, damaged)
    with tifffile.TiffFile(damaged) as tiff:
        page = tiff.pages.first
        columns = -(-page.imagewidth // page.tilewidth)
        index = 5 * columns + 4  # in the tissue
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with damaged.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    (tiled,) = wsi_attn("tile", damaged, "--output", tmp_path, "--json").json()
    assert tiled["unreadable_tiles"] > 0
    for source in (damaged, tiled["store"]):
        result = wsi_attn("predict", source, "--output", tmp_path / Path(source).suffix[1:], "--json")
        (record,) = result.json()
        assert record["unreadable_tiles"] > 0
        assert "could not be decoded" in result.stderr
        lost = (960, 1200, 1200, 1440)  # the tile's level-0 corners
        for region in record["attention"]:
            assert (
                region["x"] + region["width"] <= lost[0]
                or region["x"] >= lost[2]
                or (region["y"] + region["height"] <= lost[1] or region["y"] >= lost[3])
            )


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom wsi_attn.cli.app import run\nassert run(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'rich', 'numba', 'zarr', 'cv2', 'sklearn', 'openslide'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    import subprocess
    import sys

    started = time.process_time()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.process_time() >= started


def test_config_file_gives_defaults_and_the_command_line_wins(demo_slide: Path, tmp_path: Path) -> None:
    config = tmp_path / "lab.toml"
    config.write_text("[tile]\ntile-size = 512\nmin-tissue = 0.5\n")
    (record,) = wsi_attn("--config", config, "tile", demo_slide, "--output", tmp_path / "a", "--json").json()
    assert record["tiles_total"] == 5 * 6
    (record,) = wsi_attn(
        "--config", config, "tile", demo_slide, "--output", tmp_path / "b", "--tile-size", "256", "--json"
    ).json()
    assert record["tiles_total"] == 9 * 12
    config.write_text("[tille]\n")
    assert "no command" in wsi_attn("--config", config, "info", demo_slide, code=2).error()


def test_models_are_listed_with_their_cards() -> None:
    names = [record["name"] for record in wsi_attn("models", "list", "--json").json()]
    assert names == ["cellularity-he", "fungi"]
    assert "cellularity-he" in wsi_attn("models").stdout
    for name in names:
        card = wsi_attn("models", "show", name).stdout
        assert "## Limitations" in card
        assert "thumbnail SVM" in card
        assert "licence" in card.lower() or "CC" in card
