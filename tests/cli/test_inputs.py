"""Folders, manifests and lists on stdin, wherever slides are expected."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import in_process, wsi_attn
from tests.slides import stained


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and a manifest that gives the pixel size of one, a size of 0 for the other."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed, name in enumerate(("b.png", "a.png")):
        Image.fromarray(stained(300, 200, seed)).save(folder / name)
    (folder / "slides.csv").write_text("path,mpp\nb.png,0.25\na.png,0\n")
    (folder / "notes.txt").write_text("not a slide")
    return folder


def test_info_of_a_folder_and_of_a_manifest(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = in_process(capsys, "info", cohort, "--json").json()
    assert [Path(record["slide"]).name for record in found] == ["a.png", "b.png"]
    found = in_process(capsys, "info", cohort / "slides.csv", "--json").json()
    assert [(Path(record["slide"]).name, record["mpp"]) for record in found] == [
        ("b.png", [0.25, 0.25]),
        ("a.png", None),
    ]
    found = in_process(capsys, "info", cohort / "slides.csv", "--slide-mpp", "1", "--json").json()
    assert [record["mpp"] for record in found] == [[0.25, 0.25], [1, 1]]


def test_every_command_takes_a_manifest(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = cohort / "slides.csv"
    assert len(in_process(capsys, "tissue", manifest, "--json").json()) == 2
    tiled = in_process(capsys, "tile", manifest, "-o", tmp_path, "--tile-size", "64", "--json").json()
    assert [record["mpp"] for record in tiled] == [[0.25, 0.25], None]
    assert len(in_process(capsys, "verify", tmp_path, "--json").json()) == 2
    assert len(in_process(capsys, "heatmap", tmp_path, "-o", tmp_path / "maps", "--json").json()) == 2
    assert len(in_process(capsys, "export", tmp_path, "--to", "csv", "-o", tmp_path / "tables", "--json").json()) == 2
    assert len(in_process(capsys, "boxes", cohort, "-o", tmp_path / "boxes", "--json").json()) == 2
    answered = in_process(
        capsys, "predict", manifest, "--model", "fungi", "--allow-out-of-distribution", "--json"
    ).json()
    assert [record["mpp"] for record in answered] == [[0.25, 0.25], None]


def test_lists_of_other_systems(cohort: Path) -> None:
    for separator, mark in (("\r\n", "\ufeff"), ("\0", "")):
        listed = mark + separator.join(str(cohort / name) for name in ("a.png", "b.png")) + separator
        assert len(wsi_attn("info", "-", "--json", stdin=listed).json()) == 2


def test_find_print0(cohort: Path) -> None:
    if shutil.which("find") is None:
        pytest.skip("there is no find")
    found = subprocess.run(["find", str(cohort), "-name", "*.png", "-print0"], capture_output=True, check=True)
    command = [sys.executable, "-m", "wsi_attn", "info", "-", "--json"]
    done = subprocess.run(command, input=found.stdout, capture_output=True, check=True)
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2


def test_a_bad_row_costs_only_itself(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path\ngone.svs\n{cohort / 'a.png'}\ns3://bucket/x.svs\n")
    result = in_process(capsys, "info", manifest, "--json", code=4)
    assert len(result.json()) == 1
    first, second = (line for line in result.stderr.splitlines() if "error:" in line)
    assert "row 2" in first
    assert "row 4" in second


def test_a_folder_without_slides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in in_process(capsys, "info", tmp_path, code=3).error()
    assert str(tmp_path) in in_process(capsys, "verify", tmp_path, code=3).error()


def test_input_urls_are_refused(demo_slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "s3://bucket/a.svs" in in_process(capsys, "info", "s3://bucket/a.svs", code=3).error()
    in_process(capsys, "info", demo_slide, "https://example.org/a.svs", code=4)


def test_a_field_of_several_images(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = cohort / "fields.csv"
    manifest.write_text("path\na.png;b.png\n")
    (record,) = in_process(capsys, "info", manifest, "--json").json()
    assert (record["width"], record["height"]) == (600, 200)
    arguments = ("predict", manifest, "--model", "fungi", "--allow-out-of-distribution", "-o", tmp_path, "--heatmap")
    (record,) = in_process(capsys, *arguments, "--json").json()
    assert np.ptp(np.asarray(Image.open(record["heatmap"]))) > 60
    manifest.unlink()


def test_a_pixel_size_of_zero_in_a_file_is_missing(
    demo_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zero.svs"
    whole = demo_slide.read_bytes()
    path.write_bytes(whole.replace(b"MPP = 0.4990", b"MPP = 0.0000"))
    (record,) = in_process(capsys, "info", path, "--json").json()
    assert record["mpp"] is None
    assert "no pixel size" in record["mpp_note"]
    assert "--slide-mpp" in in_process(capsys, "predict", path, code=3).error()
    (record,) = in_process(capsys, "info", path, "--slide-mpp", "0.5", "--json").json()
    assert record["mpp"] == [0.5, 0.5]
