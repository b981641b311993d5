"""DICOM series: one slide, by whichever file or folder it is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.cli.runner import in_process
from tests.dicom_files import write_series
from wsi_attn.errors import SlideUnsupportedError
from wsi_attn.slides.dicom_series import one_per_series, series_in
from wsi_attn.slides.open import open_slide
from wsi_attn.viewer.collection import collect


@pytest.fixture
def levels(demo_slide: Path) -> list[np.ndarray]:
    with openslide.OpenSlide(demo_slide) as slide:
        pixels = np.array(slide.read_region((700, 900), 0, (512, 512)).convert("RGB"))
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


def test_every_file_and_the_folder_are_the_same_slide(levels: list[np.ndarray], tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case-7", levels, ("2.dcm", "1.dcm"))
    infos = []
    for path in (folder, folder / "1.dcm", folder / "2.dcm"):
        with open_slide(path) as slide:
            infos.append(slide.info)
            pixels = slide.read_region((0, 0), 0, (512, 512))
        assert np.abs(pixels.astype(int) - levels[0]).mean() < 5  # JPEG
    assert {info.name for info in infos} == {"case-7"}
    assert {info.path for info in infos} == {folder / "2.dcm"}  # the larger level
    assert len({info.fingerprint for info in infos}) == 1
    assert [len(info.levels) for info in infos] == [2, 2, 2]


def test_a_list_holds_each_series_once(levels: list[np.ndarray], tmp_path: Path, demo_slide: Path) -> None:
    first, second = write_series(tmp_path / "a", levels), write_series(tmp_path / "b", levels)
    given = [first / "level-1.dcm", demo_slide, first, second / "level-0.dcm", first / "level-0.dcm"]
    assert one_per_series(given) == [first / "level-0.dcm", demo_slide, second / "level-0.dcm"]


def test_folders_lists_and_files_of_a_series_are_answered_once(
    levels: list[np.ndarray], tmp_path: Path, demo_slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    (cohort / "demo.svs").symlink_to(demo_slide)
    first, second = write_series(cohort / "case-1", levels), write_series(cohort / "case-2", levels)
    mains = [str(series / "level-0.dcm") for series in (first, second)]
    found = in_process(capsys, "info", cohort, "--json")
    assert [record["slide"] for record in found.json()] == [*mains, str(cohort / "demo.svs")]
    found = in_process(capsys, "info", first, "--json")
    assert [record["slide"] for record in found.json()] == mains[:1]
    found = in_process(capsys, "tile", first / "level-1.dcm", second, first / "level-0.dcm", "-o", tmp_path / "stores")
    assert len(found.stdout.splitlines()) == 2
    assert f"also given as {first / 'level-0.dcm'}" in found.stderr
    assert sorted(store.name for store in (tmp_path / "stores").iterdir()) == ["case-1.zarr", "case-2.zarr"]
    viewed = collect([cohort]).entries.values()
    assert sorted(str(entry.path) for entry in viewed) == sorted([*mains, str(cohort / "demo.svs")])


def test_two_series_in_a_folder_are_named_after_their_largest_files(levels: list[np.ndarray], tmp_path: Path) -> None:
    write_series(tmp_path, levels, ("a0.dcm", "a1.dcm"))
    write_series(tmp_path, levels, ("b0.dcm", "b1.dcm"))
    assert [series.name for series in series_in(tmp_path)] == ["a0", "b0"]
    with open_slide(tmp_path / "b1.dcm") as slide:
        assert slide.info.name == "b0"
    with pytest.raises(SlideUnsupportedError, match="2 DICOM series"):
        open_slide(tmp_path)


def test_damaged_files_are_no_series(tmp_path: Path) -> None:
    (tmp_path / "junk.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\0" * 100)
    assert series_in(tmp_path) == []
    assert one_per_series([tmp_path / "junk.dcm"]) == [tmp_path / "junk.dcm"]
    with pytest.raises(SlideUnsupportedError, match=r"junk\.dcm"):
        open_slide(tmp_path / "junk.dcm")
