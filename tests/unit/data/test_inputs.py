"""What an argument of the command line stands for: a slide, a folder, a manifest, or a list on stdin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from wsi_attn.data.inputs import Input, expand, read_list, slides_in, stores_in
from wsi_attn.errors import ManifestError, SlideNotFoundError, SlideUnsupportedError
from wsi_attn.geometry import Mpp
from wsi_attn.store.schema import ATTRIBUTE


def nothing() -> bytes:
    raise AssertionError("stdin is read only where - is given")


def names(inputs: list[Input]) -> list[str]:
    return [given.path.name for given in inputs]


def store(path: Path) -> Path:
    """A folder that says it is a store, of which no more is read here."""
    from wsi_attn.cli.app import run

    slide = path.parent / "source.png"
    Image.new("RGB", (64, 64), (150, 90, 150)).save(slide)
    assert run(["tile", str(slide), "-o", str(path), "--tile-size", "32", "--tissue", "none", "--scores", "none"]) == 0
    slide.unlink()
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"a.svs\nb c.svs\n",
        b"\xef\xbb\xbfa.svs\r\nb c.svs\r\n",
        b"a.svs\0b c.svs\0",
        "\ufeffa.svs\r\nb c.svs\r\n".encode("utf-16-le"),
        b"\n  a.svs \n\nb c.svs",
    ],
)
def test_lists_of_every_system(data: bytes) -> None:
    assert read_list(data) == ["a.svs", "b c.svs"]


def test_names_of_any_bytes_survive_a_list() -> None:
    (name,) = read_list(b"gr\xfcn.svs\n")
    assert name.encode("utf-8", "surrogateescape") == b"gr\xfcn.svs"


def test_names_with_line_breaks_need_nul() -> None:
    assert read_list(b" two\nlines.svs\0b.svs\0") == [" two\nlines.svs", "b.svs"]


def test_a_folder_means_its_slides_in_order(tmp_path: Path) -> None:
    for name in ("b.svs", "a.PNG", "c.heatmap.png", "notes.txt", ".hidden.svs", "._a.svs", "d.tissue.png"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "deep.svs").touch()
    store(tmp_path / "z.zarr")
    for other in ("labels.segmentation.zarr", "maps.prediction.zarr"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "zarr.json").write_text('{"attributes": {}}')
    assert [path.name for path in slides_in(tmp_path)] == ["a.PNG", "b.svs", "z.zarr"]
    assert names(expand([str(tmp_path)], nothing)) == ["a.PNG", "b.svs", "z.zarr"]
    assert [path.name for path in stores_in(tmp_path)] == ["z.zarr"]
    assert ATTRIBUTE in (tmp_path / "z.zarr" / "zarr.json").read_text()


def test_a_slide_and_its_store_are_one_input(tmp_path: Path) -> None:
    store(tmp_path / "a.zarr")
    (tmp_path / "a.svs").touch()
    assert [path.name for path in slides_in(tmp_path)] == ["a.svs"]


def test_an_empty_folder_is_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty, other = expand([str(tmp_path / "empty"), "x.svs"], nothing)
    with pytest.raises(SlideNotFoundError, match="empty"):
        empty.open()
    assert other == Input(Path("x.svs"))


def test_a_manifest_means_its_rows(tmp_path: Path) -> None:
    for name in ("a.svs", "b.png", "c.png"):
        (tmp_path / name).touch()
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,label,mpp\na.svs,x,0.5\nb.png,,0\nb.png;c.png,x,0.25\ngone.svs,x,\na.svs,x,wide\n")
    first, second, field, gone, wide = expand([str(manifest)], nothing)
    assert (first.path, first.mpp) == (tmp_path / "a.svs", Mpp(0.5, 0.5))
    assert (second.path.name, second.mpp) == ("b.png", None)
    assert field.images == (tmp_path / "b.png", tmp_path / "c.png")
    with pytest.raises(ManifestError, match="field"):
        field.located()
    assert "row 5" in str(gone.problem)
    assert "gone.svs" in str(gone.problem)
    assert "row 6" in str(wide.problem)


def test_a_manifest_that_is_none_is_one_problem(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("name\na.svs\n")
    (given,) = expand([str(manifest)], nothing)
    assert isinstance(given.problem, ManifestError)


def test_pixel_size_of_the_manifest_wins(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Input(tmp_path / "a.png", Mpp(0.5, 0.5)).open(Mpp(2.0, 2.0)) as slide:
        assert slide.info.mpp == Mpp(0.5, 0.5)
    with Input(tmp_path / "a.png").open(Mpp(2.0, 2.0)) as slide:
        assert slide.info.mpp == Mpp(2.0, 2.0)


def test_several_images_open_as_one_field(tmp_path: Path) -> None:
    images = tuple(tmp_path / name for name in ("a.png", "b.png"))
    for image in images:
        Image.new("RGB", (8, 6)).save(image)
    with Input(images[0], images=images).open() as slide:
        assert slide.info.size0 == (16, 6)


def test_a_store_among_several_images_is_refused_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.zarr").mkdir()
    manifest = tmp_path / "m.csv"
    manifest.write_text("path\na.png;b.zarr\n")
    (given,) = expand([str(manifest)], nothing)
    assert "row 2" in str(given.problem)
    assert "b.zarr" in str(given.problem)


@pytest.mark.parametrize("url", ["s3://bucket/a.svs", "https://example.org/a.svs", "file:///a.svs"])
def test_urls_are_refused(url: str) -> None:
    (given,) = expand([url], nothing)
    assert isinstance(given.problem, SlideUnsupportedError)
    assert url in str(given.problem)


def test_a_list_may_name_folders_and_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    (tmp_path / "m.csv").write_text("path\na.svs\n")
    given = expand(["-"], lambda: f"{tmp_path}\n{tmp_path / 'm.csv'}\n".encode())
    assert names(given) == ["a.svs", "a.svs"]


def test_the_files_of_a_dicom_series_are_one_input(collection: Callable[[str], Path]) -> None:
    folder = collection("slides/dicom_pair")
    files = sorted(folder.glob("*.dcm"))
    assert len(files) > 1
    (by_folder,) = expand([str(folder)], nothing)
    (by_files,) = expand([str(file) for file in files], nothing)
    assert by_folder.path == by_files.path
    assert by_folder.path in files
