"""Damaged, hostile and odd files: refused at once in one line, or read with a warning."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.cli.runner import in_process, wsi_attn
from tests.dicom_files import write_series
from tests.tiff_files import write_generic, write_svs
from wsi_attn.slides import image_reader, tiff_pages
from wsi_attn.slides.tiff_pages import MAX_PAGES

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"

WIDTH, HEIGHT = 256, 257


@pytest.fixture
def pixels(demo_slide: Path) -> np.ndarray:
    with openslide.OpenSlide(demo_slide) as slide:
        return np.array(slide.read_region((700, 900), 0, (512, 512)).convert("RGB"))


def last_pointer(path: Path) -> int:
    """Where the pointer of the last directory of a classic TIFF to the next one lies."""
    data = path.read_bytes()
    (place,) = struct.unpack_from("<I", data, 4)
    while True:
        (count,) = struct.unpack_from("<H", data, place)
        at = place + 2 + 12 * count
        (place,) = struct.unpack_from("<I", data, at)
        if not place:
            return at


def patch(path: Path, at: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


@pytest.mark.parametrize("to", ["first", "itself"])
@pytest.mark.parametrize("pages", [1, 3, MAX_PAGES + 40])
def test_a_loop_of_directories_is_refused(
    to: str, pages: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loop.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(pages):
            writer.write(np.zeros((16, 16), np.uint8), metadata=None)
    data = path.read_bytes()
    end = last_pointer(path)
    (first,) = struct.unpack_from("<I", data, 4)
    with tifffile.TiffFile(path) as tiff:
        place = first if to == "first" else tiff.pages[pages - 1].offset
    patch(path, end, struct.pack("<I", place))
    assert "loop" in in_process(capsys, "info", path, code=3).error()


@pytest.mark.parametrize(("tag", "value"), [(WIDTH, 0), (HEIGHT, 0), (HEIGHT, 512 | 1 << 17), (WIDTH, 128)])
@pytest.mark.parametrize("kind", ["svs", "tiles", "strips"])
def test_a_size_that_contradicts_the_list_of_tiles_is_refused(
    kind: str, tag: int, value: int, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "strips" and value == 128:
        pytest.skip("the width of strips says nothing of their number")
    path = tmp_path / "a.svs"
    if kind == "svs":
        write_svs(path, [pixels, pixels[::4, ::4].copy()])
    else:
        options = {"tile": (256, 256)} if kind == "tiles" else {"rowsperstrip": 16}
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **options)
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages.first.tags[tag]
        width = {3: "<H", 4: "<I"}[int(found.dtype)]
        place = found.valueoffset
    if value >> 16 and width == "<H":
        patch(path, found.offset + 2, struct.pack("<HI", 4, 1))
        width = "<I"
    patch(path, place, struct.pack(width, value))
    error = in_process(capsys, "info", path, code=3).error()
    assert "is damaged" in error
    assert "px" in error


def test_a_damaged_colour_profile_is_left_out_with_a_warning(
    pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data in (("sound", profile), ("junk", profile[:40] + bytes(range(200)))):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), metadata=None, iccprofile=data)
    result = in_process(capsys, "info", tmp_path / "sound.tif", tmp_path / "junk.tif")
    assert f"colour profile {len(profile)} bytes" in result.stdout
    assert result.stdout.count("no colour profile") == 1
    assert result.stderr.count("colour profile is damaged") == 1
    assert "colour profile is damaged" in in_process(capsys, "tile", tmp_path / "junk.tif", "-o", tmp_path / "s").stderr


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    assert "not a file" in wsi_attn("info", tmp_path / "pipe.svs", code=3, timeout=60).error()
    assert "not a file" in wsi_attn("info", "/dev/zero", code=3, timeout=60).error()


def test_what_pillow_cannot_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = struct.pack("<IIIIIII44x", 124, 0x1007, 64, 64, 0, 0, 0) + struct.pack(
        "<II4sIIIII", 32, 4, b"nope", *[0] * 5
    )
    path = tmp_path / "odd.dds"
    path.write_bytes(b"DDS " + header.ljust(124, b"\0") + bytes(64 * 64))
    assert "Pillow" in in_process(capsys, "info", path, code=3).error()

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    assert "MemoryError" in in_process(capsys, "info", path, code=3).error()


def test_transparency_is_composited_in_bands_and_bounded(
    pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "COMPOSITE_ROWS", 100)
    alpha = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    image = Image.fromarray(np.dstack([pixels, alpha]))
    image.save(tmp_path / "a.png")
    found = image_reader.read_image(tmp_path / "a.png").pixels
    wanted = pixels * (alpha[..., None] / 255) + (255 - alpha[..., None].astype(float))
    assert np.abs(found - wanted).max() <= 1.5
    monkeypatch.setattr(image_reader, "MAX_PIXELS", 300_000)
    assert "transparency" in in_process(capsys, "info", tmp_path / "a.png", code=3).error()


@pytest.mark.parametrize(
    ("mode", "name", "limit"), [("RGB", "a.png", 174_000), ("L", "a.bmp", 301_000), ("RGB", "a.jpg", 399_000)]
)
def test_images_are_limited_by_the_memory_of_their_decoder(
    mode: str,
    name: str,
    limit: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_reader, "MAX_PIXELS", 400_000)
    for pixels, code in ((limit * 0.98, 0), (limit * 1.02, 3)):
        side = int(pixels**0.5)
        Image.new(mode, (side, side), 90 if mode == "L" else (90, 60, 90)).save(tmp_path / name)
        assert ("megapixels" in in_process(capsys, "info", tmp_path / name, code=code).stderr) == bool(code)


@pytest.mark.parametrize("size", [400, 12_000])
def test_a_damaged_jpeg_2000_image_is_refused(
    size: int, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """400 bytes zeroed in the middle, or the end cut off."""
    path = tmp_path / "a.jp2"
    Image.fromarray(pixels).save(path)
    in_process(capsys, "info", path)
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(size) + data[middle + size :] if size < 10_000 else data[:-size])
    in_process(capsys, "info", path, code=3).error()


def test_sound_files_are_not_refused(pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = write_generic(tmp_path / "odd.tif", [pixels[:500, :300], pixels[:500:2, :300:2].copy()], (128, 64))
    planar, one = tmp_path / "planar.tif", tmp_path / "one.tif"
    tifffile.imwrite(
        planar, np.moveaxis(pixels, -1, 0).copy(), photometric="rgb", planarconfig="separate", metadata=None
    )
    tifffile.imwrite(one, pixels, photometric="rgb", metadata=None)
    in_process(capsys, "info", odd, planar, one)


def _altered(path: Path, tag: int, value: bytes, *, field: bool = False) -> Path:
    """A copy of the demo slide with the first bytes of the value, or the type, of a tag of its first page replaced."""
    with tifffile.TiffFile(SLIDE) as tiff:
        entry = tiff.pages[0].tags[tag]
        at = entry.offset + 2 if field else entry.valueoffset
    data = bytearray(SLIDE.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def test_jpeg_tables_of_another_type_are_refused(tmp_path: Path) -> None:
    assert "JPEG tables" in wsi_attn("info", _altered(tmp_path / "a.svs", 347, b"\6", field=True), code=3).error()


def test_a_grey_tag_on_colour_tiles_without_markers_is_refused(tmp_path: Path) -> None:
    assert "grey" in wsi_attn("info", _altered(tmp_path / "a.svs", 262, b"\0"), code=3).error()


def test_old_style_jpeg_is_refused(tmp_path: Path) -> None:
    """One flipped bit of the compression tag turns JPEG into it, with other colours."""
    wsi_attn("info", _altered(tmp_path / "a.svs", 259, b"\6"), code=3).error()


def test_a_tile_whose_length_is_lost_is_unreadable(tmp_path: Path) -> None:
    slide = _altered(tmp_path / "a.svs", 325, bytes(2))
    options = ("--tissue", "none", "--scores", "none", "--json")
    assert wsi_attn("tile", slide, "-o", tmp_path / "a.zarr", *options).json()[0]["unreadable_tiles"] == 1


def test_tiles_too_large_for_every_thread_are_refused(
    pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few megabytes of a compressed file unfold to gigabytes in each thread."""
    write_generic(tmp_path / "a.tif", [pixels], (256, 256), "deflate")
    write_series(tmp_path / "series", [pixels])
    (series,) = (tmp_path / "series").glob("*.dcm")
    in_process(capsys, "info", tmp_path / "a.tif", series)
    monkeypatch.setattr(tiff_pages, "MAX_TILE_BYTES", 256 * 256 * 3 - 1)
    for path in (tmp_path / "a.tif", series):
        assert "tiles of 256 x 256 px" in in_process(capsys, "info", path, code=3).error()
