"""Manifests and boxes that contradict themselves: refused with file, row and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import in_process
from tests.dicom_files import write_series


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), "white").save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na.png,benign\na.png,malignant\n", ["row 3", "label", "'benign'", "'malignant'", "row 2"]),
        ("path,label,label\na.png,benign,malignant\n", ["row 1", "'label'"]),
        ("Path,label, path\na.png,benign,b.png\n", ["row 1", "'path'"]),
        ('path,label,mpp\na.png,benign,"1,5"\n', ["row 2", "column mpp", "1.5"]),
        ('path,label,mpp\na.png,benign,"0,25"\n', ["row 2", "column mpp", "0.25"]),
        ("path,label,mpp\na.png,benign,nan\n", ["row 2", "column mpp"]),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    text: str, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "table.csv"
    table.write_text(text)
    error = in_process(capsys, "train", table, "-o", folder / "run", code=3).error()
    assert all(word in error for word in [str(table), *words]), error


def test_a_decimal_comma_on_the_command_line_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1.5" in in_process(capsys, "info", folder / "a.png", "--slide-mpp", "1,5", code=2).error()
    (record,) = in_process(capsys, "info", folder / "a.png", "--slide-mpp", "0.5,0.25", "--json").json()
    assert record["mpp"] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "<annotation>\n<object><bndbox>\n<xmin>nan</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>",
            ["line 2", "box 1"],
        ),
        ("<annotation>\n\n<object><bndbox>\n<xmin>1</xmin>", ["line 3", "box 1"]),
        ('<?xml version="1.0" encoding="nope"?><annotation/>', ["line 1", "nope"]),
        ("<annotation><size><width>64</width><height>1e400</height></size></annotation>", ["1e400"]),
    ],
)
def test_boxes_that_are_no_numbers_are_refused(
    text: str, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = "</bndbox></object></annotation>" if "<bndbox>" in text else ""
    (folder / "boxes.xml").write_text(text + end)
    (folder / "table.csv").write_text("path,label,boxes\na.png,benign,boxes.xml\n")
    result = in_process(capsys, "boxes", folder / "table.csv", "-o", folder / "out", code=3)
    error = result.stderr
    assert all(word in error for word in ["boxes.xml", "row 2", *words]), error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('path,label\na.png,benign\nb.png,"mali', ["end of data"]),
        ("path,label,mpp\na.png,benign,0,5\n", ["row 2", "4 cells", "decimal point"]),
        ("path,label\na.png,benign\n\nb.png,one,two\n", ["row 4", "3 cells"]),
        ("path,mpp\na.png,1e-9\n", ["row 2", "column mpp", "0.001"]),
    ],
)
def test_rows_that_would_be_read_wrong_are_refused(
    text: str, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "table.csv"
    table.write_text(text)
    error = in_process(capsys, "info", table, code=3).error()
    assert all(word in error for word in words), error


def test_rows_of_empty_cells_are_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "table.csv"
    table.write_text("path,label\na.png,x\n,\n , ,\nb.png,y,,\n")
    records = in_process(capsys, "info", table, "--json").json()
    assert [Path(record["slide"]).name for record in records] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [("a,train b,train", ["column label", "'a'"]), ("a,train a,test", ["is in train (row 2) and in test (row 3)"])],
)
def test_files_of_one_dicom_series_are_one_image(
    rows: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level = np.full((256, 256, 3), 200, np.uint8)
    write_series(tmp_path / "series", [level, level[::2, ::2]])
    table = tmp_path / "table.csv"
    lines = [f"series/level-{number}.dcm,{row}" for number, row in enumerate(rows.split())]
    table.write_text("\n".join(["path,label,split", *lines]))
    error = in_process(capsys, "train", table, "-o", tmp_path / "run", code=3).error()
    assert all(word in error for word in words), error
