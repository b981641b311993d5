"""`wsi-attn boxes` as a user runs it: a table that is a manifest, pictures, and everything that can be in the way."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Result, in_process
from tests.cli.runner import wsi_attn as in_a_process
from wsi_attn.data.manifest import read_manifest


def write_cell(path: Path, x: int, y: int, seed: int = 0) -> None:
    """A dark square of 30 px on a pale ground of 120 x 90."""
    pixels = np.random.default_rng(seed).normal((235, 225, 230), 3, (90, 120, 3))
    pixels[y : y + 30, x : x + 30] = (110, 60, 140)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


Run = Callable[..., Result]


@pytest.fixture
def wsi_attn(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(in_process, capsys)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two boxes that are given, one of them beside the cell; and a row without."""
    (tmp_path / "cells").mkdir()
    for number, (x, y) in enumerate([(20, 20), (60, 40), (70, 10)]):
        write_cell(tmp_path / "cells" / f"{number}.png", x, y, number)
    rows = ["path,label,patient,split,boxes", "cells/0.png,a,p,train,20 20 50 50"]
    rows += ["cells/1.png,b,q,val,5 5 20 20", "cells/2.png,b,r,train,"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "m.csv"


def test_the_table_is_a_manifest(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    done = wsi_attn("boxes", manifest, "--output", tmp_path / "out", "--json")
    first, second, third = done.json()
    assert first["iou"] > 0.7
    assert second["iou"] == 0
    assert third["iou"] is None
    assert "mean IoU with the boxes of the manifest: 0." in done.stderr
    assert "on 2 images" in done.stderr
    rows = read_manifest(tmp_path / "out" / "boxes.csv")
    assert [(row.label, row.patient, row.split) for row in rows] == [
        ("a", "p", "train"),
        ("b", "q", "val"),
        ("b", "r", "train"),
    ]
    assert [row.path.resolve() for row in rows] == [manifest.parent / "cells" / f"{n}.png" for n in range(3)]
    for row, (x, y) in zip(rows, [(20, 20), (60, 40), (70, 10)], strict=True):
        found = [int(side) for side in row.boxes.split()]
        assert np.abs(np.array(found) - (x, y, x + 30, y + 30)).max() <= 6
    for record in (first, second, third):
        with Image.open(record["picture"]) as picture:
            assert max(picture.size) >= 400
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3


def test_lines_for_people_and_images_on_the_command_line(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    cells = sorted((manifest.parent / "cells").iterdir())
    done = wsi_attn("boxes", *cells[:2], "--output", tmp_path / "out", "--quiet")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["../cells/0.png", "../cells/1.png"]
    assert all(len(line[1].split()) == 4 and float(line[2]) > 0.3 and line[3] == "-" for line in lines)
    assert done.stderr == ""
    with (tmp_path / "out" / "boxes.csv").open() as file:
        assert [record["label"] for record in csv.DictReader(file)] == ["", ""]
    piped = in_a_process("boxes", "-", "--output", tmp_path / "piped", "--json", stdin=f"{cells[2]}\n")
    assert len(piped.json()) == 1


def test_what_is_there_is_kept_or_refused(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = wsi_attn("boxes", manifest, "--output", out, "--json")
    again = wsi_attn("boxes", manifest, "--output", out, "--json")
    assert again.stdout == first.stdout
    assert "--overwrite" in again.stderr
    write_cell(manifest.parent / "cells" / "2.png", 10, 10)
    assert "boxes of other images" in wsi_attn("boxes", manifest, "--output", out, code=3).error()
    other = manifest.parent / "cells" / "0.png"
    assert "--overwrite" in wsi_attn("boxes", other, "--output", out, code=3).error()
    assert len(wsi_attn("boxes", other, "--output", out, "--overwrite", "--json").json()) == 1
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    assert "something else" in wsi_attn("boxes", other, "--output", tmp_path / "taken", code=3).error()


def test_one_bad_image_does_not_stop_the_others(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    good = manifest.parent / "cells" / "0.png"
    done = wsi_attn("boxes", tmp_path / "bad.png", good, "--output", tmp_path / "out", "--json", code=4)
    assert len(done.json()) == 1
    assert "bad.png" in done.error()
    (tmp_path / "bad.png").unlink()
    write_cell(tmp_path / "bad.png", 30, 30)
    repaired = wsi_attn("boxes", tmp_path / "bad.png", good, "--output", tmp_path / "out", "--overwrite", "--json")
    assert len(repaired.json()) == 2


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ("boxes", "20 20 500 50", "row 2: box 1 (20 20 500 50) reaches outside"),
        ("boxes", "50 20 20 50", "row 2: box 1 (50 20 20 50) is empty or inverted"),
        ("boxes", "gone.xml", "row 2: boxes file not found"),
    ],
)
def test_given_boxes_that_are_wrong_are_named(
    column: str, text: str, said: str, wsi_attn: Run, manifest: Path, tmp_path: Path
) -> None:
    (tmp_path / "w.csv").write_text(f"path,label,{column}\ncells/0.png,a,{text}\n")
    assert said in wsi_attn("boxes", tmp_path / "w.csv", "--output", tmp_path / "out", code=3).error()
    assert not (tmp_path / "out").exists()


def test_ways_that_there_are_not(wsi_attn: Run, manifest: Path, tmp_path: Path) -> None:
    error = wsi_attn("boxes", manifest, "--output", tmp_path / "o", "--method", "salience", code=2).error()
    assert "saliency" in error
    error = wsi_attn("boxes", manifest, "--output", tmp_path / "o", "--method", "segmentation", code=2).error()
    assert "segmentation model" in error
    error = wsi_attn("boxes", manifest, manifest, "--output", tmp_path / "o", code=2).error()
    assert "one manifest" in error


def test_boxes_of_a_slide(wsi_attn: Run, demo_slide: Path, tmp_path: Path) -> None:
    (record,) = wsi_attn("boxes", demo_slide, "--output", tmp_path / "out", "--json").json()
    assert json.loads((tmp_path / "out" / "boxes.json").read_text())["records"] == [record]
    for box in filter(None, record["boxes"].split(";")):
        x1, y1, x2, y2 = map(int, box.split())
        assert 0 <= x1 < x2 <= 2220
        assert 0 <= y1 < y2 <= 2967
