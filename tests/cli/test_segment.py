"""Training on masks, evaluating, and segmenting images, slides and stores, as a user does."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from tests.cli.runner import Result, in_process, wsi_attn
from wsi_attn.store import additions
from wsi_attn.store.schema import read_meta
from wsi_attn.tasks.segmentation import labels as labels_module
from wsi_attn.viewer.collection import collect
from wsi_attn.viewer.overlays import polygons_of

Command = Callable[..., Result]
TINY = ("--model", "joint-segmentation", "--epochs", "3", "--batch-size", "4", "--crop", "64", "--mpp", "4", "--quiet")
RATE = ("--learning-rate", "0.01", "--averaging", "0.5", "--tissue", "otsu", "--stain", "made up")


def discs(seed: int, height: int = 96, width: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Dark discs on pale ground, and the number of each."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(215, 8, (height, width, 3)) - (0, 25, 10)
    numbers = np.zeros((height, width), np.uint16)
    for number in range(1, height * width // 1500):
        x, y, radius = (int(v) for v in rng.integers((8, 8, 5), (width - 8, height - 8, 10)))
        cv2.circle(numbers, (x, y), radius, number, -1)
    pixels[numbers > 0] -= (110, 120, 60)
    return pixels.clip(0, 255).astype(np.uint8), numbers


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of six patients, the last for testing."""
    folder = tmp_path_factory.mktemp("discs")
    rows = ["path,mask,label,patient,split,mpp"]
    for index in range(12):
        pixels, numbers = discs(index)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        Image.fromarray(numbers).save(folder / f"{index}_mask.png")
        rows.append(f"{index}.png,{index}_mask.png,,p{index // 2},{'test' if index > 9 else 'train'},4")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "discs"
    (record,) = wsi_attn("train", manifest, "--output", run, *TINY, *RATE, "--json").json()
    assert record["state"] == "trained"
    assert record["labels"] == ["background", "foreground"]
    return run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return partial(in_process, capsys)


def test_run_folder_is_that_of_any_run(run: Path) -> None:
    names = {"run.json", "splits.csv", "log.csv", "metrics.json", "report.html", "checkpoint"}
    assert {path.name for path in run.iterdir()} == names
    with (run / "log.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert len(epochs) == 3
    for column in ("loss", "cross_entropy", "dice", "val_loss", "val_dice", "val_iou", "images_per_second"):
        assert float(epochs[-1][column]) >= 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["dice"]["value"] > 0.3  # a guess that all is disc has 0.2 to 0.3
    assert set(metrics["learned_attention"]) == {"2", "4", "8", "16", "32"}
    spec = json.loads((run / "checkpoint" / "config.json").read_text())["spec"]
    assert (spec["task"], spec["mpp"], spec["tissue"]) == ("segmentation", 4, "otsu")
    assert "Dice, mean over images" in (run / "report.html").read_text()
    card = (run / "checkpoint" / "card.md").read_text()
    assert "gives every pixel one of: background, foreground" in card
    assert "object_f1" in card


@pytest.mark.slow
def test_killed_run_ends_with_the_same_weights(run: Path, manifest: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "wsi_attn", "train", str(manifest), "--output", str(killed), *TINY, *RATE]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(2400):
        if (killed / "log.csv").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "metrics.json").exists()
    (record,) = wsi_attn("train", manifest, "--output", killed, *TINY, *RATE, "--json").json()
    assert record["state"] == "resumed"
    ours, theirs = ((folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (killed, run))
    assert ours == theirs
    (record,) = wsi_attn("train", manifest, "--output", killed, *TINY, *RATE, "--json").json()
    assert record["state"] == "skipped"


def test_evaluate_gives_the_metrics_of_pixels_and_objects(
    command: Command, run: Path, manifest: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    (record,) = command("evaluate", run, manifest, "--json", "--report", report).json()
    assert (record["n"], record["groups"], record["split"]) == (2, 1, "test")
    for metric in ("dice", "iou", "boundary_f", "object_f1", "image_dice", "pixel_accuracy"):
        assert set(record[metric]) == {"value", "low", "high"}
    assert (record["boundary_tolerance_px"], record["object_iou"]) == (2, 0.5)
    assert {path.name for path in report.iterdir()} == {"report.html", "report.json", "predictions.csv"}
    rows = list(csv.DictReader((report / "predictions.csv").read_text().splitlines()))
    tp, fp, fn = (sum(int(row[f"{count}:foreground"]) for row in rows) for count in ("tp", "fp", "fn"))
    assert len(rows) == 2
    assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(record["dice"]["value"])
    text = command("evaluate", run, manifest).stdout
    assert "object_f1\t" in text
    assert (
        "no operating point"
        in command("evaluate", run, manifest, "--sensitivity", "0.9", "--positive", "foreground", code=2).error()
    )


def test_segment_an_image_and_a_slide_beside_a_bad_one(
    command: Command, run: Path, manifest: Path, demo_slide: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"no slide")
    image = manifest.parent / "11.png"
    arguments = ("--model", run, "--output", tmp_path / "out", "--json")
    result = command("segment", demo_slide, bad, *arguments, code=4)
    (slide,) = result.json()
    assert "bad.svs" in result.error()
    label = zarr.open_array(tmp_path / "out" / "cmu1_small_region.segmentation.zarr" / "0", mode="r")
    assert slide["label_mpp"] == pytest.approx([4, 4], rel=0.02)
    assert label.shape == (pytest.approx(2967 * 0.499 / 4, rel=0.02), pytest.approx(2220 * 0.499 / 4, rel=0.02))
    assert 0.1 < slide["tissue_fraction"] <= 1
    (found,) = command("segment", image, *arguments, "--slide-mpp", "4").json()
    answer = np.asarray(zarr.open_array(tmp_path / "out" / "11.segmentation.zarr" / "0", mode="r")[...])
    _, numbers = discs(11)
    assert answer.shape == numbers.shape
    overlap = 2 * ((answer == 1) & (numbers > 0)).sum() / ((answer == 1).sum() + (numbers > 0).sum())
    assert overlap > 0.3
    collection = json.loads((tmp_path / "out" / "11.segmentation.geojson").read_text())
    assert len(collection["features"]) == found["classes"]["foreground"]["objects"]
    again = command("segment", image, *arguments, "--slide-mpp", "4")
    assert again.json() == [found]
    assert "--overwrite" in again.stderr
    assert "--overwrite" in command("segment", image, *arguments, "--slide-mpp", "4", "--tile", "32", code=3).error()


def test_the_viewer_shows_the_polygons(command: Command, run: Path, manifest: Path, tmp_path: Path) -> None:
    image = tmp_path / "11.png"
    image.write_bytes((manifest.parent / "11.png").read_bytes())
    command("segment", image, "--model", run, "--output", tmp_path, "--slide-mpp", "4", "--quiet")
    (entry,) = collect([tmp_path]).entries.values()
    assert entry.path == image
    assert entry.polygons == (tmp_path / "11.segmentation.geojson",)
    polygons = polygons_of(entry.polygons[0])
    assert polygons[0]["name"] == "foreground"
    assert polygons[0]["rings"]


def test_a_label_in_a_store_is_found_by_readers_of_ome_zarr(
    command: Command, run: Path, manifest: Path, tmp_path: Path
) -> None:
    store = tmp_path / "slide.zarr"
    command("tile", manifest.parent / "11.png", "--output", store, "--slide-mpp", "4", "--tile-size", "32", "--quiet")
    arguments = ("--model", run, "--output", tmp_path / "out", "--into-store", "--json")
    (record,) = command("segment", store, *arguments).json()
    assert record["labels"] == str(store / "labels" / "discs")
    group = zarr.open_group(store, mode="r")
    assert group["labels"].attrs["ome"]["labels"] == ["tissue", "discs"]
    label = group["labels/discs"]
    assert len(label.attrs["ome"]["multiscales"][0]["datasets"]) == len(
        group.attrs["ome"]["multiscales"][0]["datasets"]
    )
    assert label["0"].shape == group["0"].shape[1:]
    assert command("verify", store).code == 0
    recorded = [key for key in read_meta(store).files or {} if key.startswith("labels/discs/")]
    assert set(recorded) == {
        file.relative_to(store).as_posix() for file in (store / "labels" / "discs").rglob("*") if file.is_file()
    }
    for key in recorded:
        content = (store / key).read_bytes()
        (store / key).unlink()
        assert key in command("verify", store, code=3).error()
        (store / key).write_bytes(content)
    assert command("segment", store, *arguments).json() == [record]
    assert "not a store" in command("segment", manifest.parent / "11.png", *arguments, code=2).error()


@pytest.mark.parametrize("moment", ["_move", "commit"])
@pytest.mark.parametrize("before", ["nothing", "another label"])
def test_a_label_whose_addition_was_killed(
    command: Command,
    run: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    before: str,
) -> None:
    store = tmp_path / "slide.zarr"
    command("tile", manifest.parent / "11.png", "--output", store, "--slide-mpp", "4", "--tile-size", "32", "--quiet")
    arguments = ("segment", store, "--model", run, "--output", tmp_path / "out", "--into-store", "--json", "--quiet")
    if before == "another label":
        command(*arguments, "--tile", "64")
        (tmp_path / "out" / "slide.segmentation.json").unlink()
    target = labels_module.LabelImage if moment == "_move" else additions

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, moment, die)
        command(*arguments, "--overwrite", code=130)
    (verdict,) = command("verify", store, "--json").json()
    assert verdict["state"] == "sound"
    assert "labels/discs was interrupted" in verdict["notes"][0]
    overwrite = ("--overwrite",) if before == "another label" and moment == "_move" else ()
    (record,) = command(*arguments, *overwrite).json()
    assert record["labels"] == str(store / "labels" / "discs")
    (verdict,) = command("verify", store, "--json").json()
    assert (verdict["state"], verdict["notes"]) == ("sound", [])
    assert zarr.open_group(store, mode="r")["labels"].attrs["ome"]["labels"] == ["tissue", "discs"]
    assert not list(store.rglob(".*"))


@pytest.mark.slow
def test_a_killed_segmentation_ends_as_one_that_was_not(run: Path, manifest: Path, tmp_path: Path) -> None:
    pixels, _ = discs(3, 280, 360)
    image = tmp_path / "large.png"
    Image.fromarray(pixels).save(image)
    program = (
        "import sys; import wsi_attn.tasks.segmentation.labels as labels; labels.BLOCK = 64; "
        "from wsi_attn.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )

    def line(folder: str) -> list[str]:
        options = ["--model", str(run), "--output", str(tmp_path / folder), "--slide-mpp", "4", "--quiet"]
        return [sys.executable, "-c", program, "segment", str(image), *options]

    subprocess.run(line("whole"), check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    process = subprocess.Popen(line("killed"), stdout=subprocess.DEVNULL)
    journal = tmp_path / "killed" / ".large.segmentation.zarr.part" / "journal.jsonl"
    for _ in range(2400):
        if journal.exists() and len(journal.read_text().splitlines()) > 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "large.segmentation.zarr").exists()
    subprocess.run(line("killed"), check=True, stdout=subprocess.DEVNULL)
    ours, theirs = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "killed", tmp_path / "whole")
    )
    record = Path("large.segmentation.json")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name != record)


def test_what_is_refused(command: Command, run: Path, manifest: Path, tmp_path: Path) -> None:
    def refusal(*arguments: str | Path, code: int = 2) -> str:
        return command(*arguments, "--output", tmp_path / "r", "--quiet", code=code).error()

    segmenting = ("train", manifest, "--model", "joint-segmentation")
    assert "has no option --folds" in refusal(*segmenting, "--folds", "3")
    assert "multiple of 32" in refusal(*segmenting, "--crop", "100")
    assert "did you mean joint" in refusal(*segmenting, "--attention", "jiont")
    assert "no option --classes, which belongs to --model joint" in refusal("train", manifest, "--classes", "a,b")
    assert "no option --warp, which belongs to --model joint" in refusal("train", manifest, "--warp", "0.5")
    assert "has no option --resample" in refusal(*segmenting, "--resample", "root")
    assert "no option --coarse-factor" in refusal(*segmenting, "--coarse-factor", "2")
    assert "has no option --no-flip" in refusal(*segmenting, "--no-flip")
    assert "has no option --random-crop" in refusal(*segmenting, "--random-crop", "0.2")
    assert "has no option --patch-size" in refusal(*segmenting, "--patch-size", "64")
    (manifest.parent / "none.csv").write_text("path\n1.png\n2.png\n")
    without = ("train", manifest.parent / "none.csv", "--model", "joint-segmentation")
    assert "none.csv, row 2: no mask" in refusal(*without, code=3)
    assert "multiples of 32" in refusal("segment", manifest, "--model", run, "--tile", "64", "--overlap", "20")
    assert "classifies whole slides" in refusal("segment", manifest, "--model", "fungi")
    assert "wsi-attn segment" in refusal("predict", manifest.parent / "1.png", "--model", run)


@pytest.mark.slow
def test_several_classes_from_annotations_on_a_slide(command: Command, demo_slide: Path, tmp_path: Path) -> None:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]]},
            "properties": {"classification": {"name": name}},
        }
        for name, x, y, w, h in (("Stroma", 200, 200, 700, 900), ("Gland", 1200, 1500, 800, 1100))
    ]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    rows = [f"{demo_slide},a.geojson,train"]
    other = tmp_path / "other.svs"
    other.write_bytes(demo_slide.read_bytes())
    rows.append(f"{other},a.geojson,val")
    (tmp_path / "m.csv").write_text("path,mask,split\n" + "\n".join(rows) + "\n")
    run = tmp_path / "run"
    options = (*TINY[:2], "--epochs", "1", *TINY[4:], "--attention", "none", "--json")
    (record,) = command("train", tmp_path / "m.csv", "--output", run, *options).json()
    assert record["labels"] == ["background", "Gland", "Stroma"]
    assert record["per_class"]["Gland"]["support"] == pytest.approx(800 * 1100 * (0.499 / 4) ** 2, rel=0.05)
    (found,) = command("segment", demo_slide, "--model", run, "--output", tmp_path / "out", "--json").json()
    assert set(found["classes"]) == {"Gland", "Stroma"}
