"""Single damaged tags of a TIFF that leave a readable file of other pixels, levels or places: refused or reported."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tests.cli.runner import in_process
from tests.tiff_files import Streams, halves, pyramid_of, write_generic, write_leica, write_philips, write_svs

SLIDE = Path(__file__).parents[1] / "data" / "cmu1_small_region.svs"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    with openslide.OpenSlide(SLIDE) as slide:
        return np.array(slide.read_region((700, 900), 0, (600, 500)).convert("RGB"))


def change(path: Path, tag: int, data: bytes, *, page: int = 0, entry: int | None = None, value: int = 0) -> Path:
    """Overwrite a value of a tag, or from byte `entry` of its directory entry: number, type (2), count (4), value."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page].aspage().tags[tag]
        at = found.offset + entry if entry is not None else found.valueoffset + value
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


def strips(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=64, metadata=None, **options)
    return path


def tiles(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), metadata=None, **options)
    return path


WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, COUNTS = 256, 257, 258, 259, 262, 273, 279
TILE_WIDTH, TILE_OFFSETS, TILE_COUNTS, ORIENTATION, DESCRIPTION = 322, 324, 325, 274, 270


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits"])
@pytest.mark.parametrize(
    ("tag", "data", "entry"),
    [
        (WIDTH, b"\0\2", None),  # 512 instead of 600 px
        (HEIGHT, b"\0\1", None),  # 256 instead of 500 px, with strips left over
        (BITS, b"\xff\xff", 2),
        (BITS, b"\x02\x09", 0),
        (PHOTOMETRIC, b"\0\0", None),
        (OFFSETS, bytes(4), None),
        (COUNTS, bytes(4), None),
        (COUNTS, b"\4\0\0\0", 4),
    ],
)
def test_strips(
    compression: str | None,
    tag: int,
    data: bytes,
    entry: int | None,
    pixels: np.ndarray,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    path = strips(tmp_path / "a.tif", pixels, compression=compression)
    in_process(capsys, "info", path)
    in_process(capsys, "info", change(path, tag, data, entry=entry), code=3).error()


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "jpeg"])
@pytest.mark.parametrize(
    ("tag", "data", "entry"),
    [
        (TILE_COUNTS, b"\7\0\0\0", 4),
        (TILE_WIDTH, b"\xff\xff", 2),
        (PHOTOMETRIC, b"\0\0", None),
        (ORIENTATION, b"\0\6", None),
        (BITS, b"\xff\xff", 2),
    ],
)
def test_tiles(
    compression: str | None,
    tag: int,
    data: bytes,
    entry: int | None,
    pixels: np.ndarray,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    oriented = [(ORIENTATION, "H", 1, 1, True)]
    path = tiles(tmp_path / "a.tif", pixels, compression=compression, extratags=oriented)
    in_process(capsys, "info", path)
    in_process(capsys, "info", change(path, tag, data, entry=entry), code=3).error()


def unreadable(path: Path, folder: Path, capsys: Capture) -> int:
    store = folder / "s.zarr"
    options = ("--tissue", "none", "--tile-size", "128", "--scores", "none", "--overwrite", "--json")
    (record,) = in_process(capsys, "tile", path, "-o", store, *options).json()
    found = record["unreadable_tiles"]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "jpeg"])
@pytest.mark.parametrize("damage", ["offset in the header", "offset within another tile", "length lost"])
def test_a_tile_in_an_impossible_place_is_unreadable(
    compression: str | None, damage: str, pixels: np.ndarray, tmp_path: Path, capsys: Capture
) -> None:
    path = tiles(tmp_path / "a.tif", pixels, compression=compression)
    assert unreadable(path, tmp_path, capsys) == 0
    with tifffile.TiffFile(path) as tiff:
        begin, length = tiff.pages[0].dataoffsets[6], tiff.pages[0].databytecounts[6]
    tag, data = {
        "offset in the header": (TILE_OFFSETS, struct.pack("<I", 3)),
        "offset within another tile": (TILE_OFFSETS, struct.pack("<I", begin + length // 2)),
        "length lost": (TILE_COUNTS, bytes(4)),
    }[damage]
    width = 4 if tag == TILE_OFFSETS else 2
    with tifffile.TiffFile(path) as tiff:
        width = tiff.pages[0].tags[tag].valuebytecount // len(tiff.pages[0].dataoffsets)
    change(path, tag, data[:width], value=7 * width)
    assert 1 <= unreadable(path, tmp_path, capsys) <= 2


def test_lost_compression_tag_makes_tiles_unreadable(pixels: np.ndarray, tmp_path: Path, capsys: Capture) -> None:
    """Read as uncompressed, the compressed bytes would be shown as noise."""
    path = change(tiles(tmp_path / "a.tif", pixels, compression="deflate"), COMPRESSION, b"\1\0")
    assert unreadable(path, tmp_path, capsys) == 20


def test_a_lost_checksum_is_not_left_to_a_lenient_decoder(pixels: np.ndarray, tmp_path: Path, capsys: Capture) -> None:
    """Zeros within the largest tile, which libtiff decodes without comparing the checksum of the data."""
    path = tiles(tmp_path / "a.tif", pixels, compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        largest = int(np.argmax(tiff.pages[0].databytecounts))
        at = tiff.pages[0].dataoffsets[largest] + tiff.pages[0].databytecounts[largest] // 2
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(40))
    assert unreadable(path, tmp_path, capsys) == 1


@pytest.mark.parametrize("write", [strips, tiles])
def test_a_file_without_any_tile_is_refused(
    write: Callable[..., Path], pixels: np.ndarray, tmp_path: Path, capsys: Capture
) -> None:
    path = write(tmp_path / "a.tif", pixels, compression="lzw")
    with tifffile.TiffFile(path) as tiff:
        tags = [tag for tag in tiff.pages[0].tags if tag.code in (OFFSETS, COUNTS, TILE_OFFSETS, TILE_COUNTS)]
    with path.open("r+b") as file:
        for tag in tags:
            file.seek(tag.valueoffset)
            file.write(bytes(tag.valuebytecount))
    assert "are missing" in in_process(capsys, "info", path, code=3).error()


def test_a_slide_of_areas_without_their_places_is_refused(pixels: np.ndarray, tmp_path: Path, capsys: Capture) -> None:
    """OpenSlide would show the macro image as the slide, or the area without its place on the glass."""
    path = write_leica(tmp_path / "a.scn", pyramid_of(pixels, halves(pixels, 1)), offset_nm=100_000)
    in_process(capsys, "info", path)
    with tifffile.TiffFile(path) as tiff:
        middle = str(tiff.pages.first.description).index("<view")
    assert "leica" in in_process(capsys, "info", change(path, DESCRIPTION, b"<wiew", value=middle), code=3).error()
    in_process(capsys, "info", change(path, DESCRIPTION, b"\0\0", value=middle), code=3).error()


def test_metadata_that_contradict_the_pages_are_reported(pixels: np.ndarray, tmp_path: Path, capsys: Capture) -> None:
    cut = change(Path(shutil.copy(SLIDE, tmp_path / "cut.svs")), WIDTH, struct.pack("<H", 2219))
    assert "2220 x 2967 px" in in_process(capsys, "info", cut).stderr
    assert "2220 x 2967 px" in in_process(capsys, "tile", cut, "-o", tmp_path / "s.zarr", "--scores", "none").stderr
    philips = change(write_philips(tmp_path / "a.tiff", pixels, 2, 256), 305, b"p")
    assert "Philips" in in_process(capsys, "info", philips).stderr


def test_sound_files_are_read_as_before(pixels: np.ndarray, tmp_path: Path, capsys: Capture) -> None:
    """Shared and missing tiles, a strip list filled up with zeros."""
    blank = pixels.copy()
    blank[:256] = 255
    svs = write_svs(tmp_path / "a.svs", [blank, blank[::2, ::2].copy()], streams=Streams(), missing=[0, 1])
    generic = write_generic(tmp_path / "b.tif", [blank], streams=Streams(), missing=[1, 5])
    for path in (svs, generic):
        assert unreadable(path, tmp_path, capsys) == 0
        assert "warning" not in in_process(capsys, "info", path).stderr
